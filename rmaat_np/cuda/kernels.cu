// The fused kernels of the CuPy backend; kernels.py compiles them with NVRTC and says what each takes.
//
// `real` is float or double, WIDTH the width that layer norm runs over. Every kernel is the arithmetic of the plain
// function that it is named after. Each number of a result is written by one thread, and sums have a fixed order: no
// atomics and no shared memory, so that a run repeats bit for bit. Comparisons are written such that a NaN stays one.

typedef long long int64;

// Indices: 32 bits where every array of the launch is small enough, for a division of 64 bits takes many instructions.
typedef INDEX Offset;

// An integer argument: kernels.py passes 64 bits, the arithmetic takes what an index has.
struct Size {
    int64 value;
    __device__ operator Offset() const { return (Offset)value; }
};

#define PER_LANE ((WIDTH + 31) / 32)

// One thread per element i of `count`.
#define EACH(i, count)                                           \
    const Offset i = (Offset)blockIdx.x * blockDim.x + threadIdx.x; \
    if (i >= (count)) return;

// One warp, 32 lanes, per row of `count`; all lanes of a warp return together, so sums over lanes are safe after it.
#define EACH_ROW(row, lane, count)                                          \
    const Offset row = ((Offset)blockIdx.x * blockDim.x + threadIdx.x) / 32; \
    const int lane = threadIdx.x % 32;                                      \
    if (row >= (count)) return;

// The sum over a warp's lanes, the same in all of them.
__device__ real warp_sum(real x) {
    for (int offset = 16; offset; offset /= 2) x += __shfl_xor_sync(0xffffffff, x, offset);
    return x;
}

__device__ real phi(real u) { return u > 0 ? u + 1 : exp(u); }

__device__ real phi_slope(real phi) { return phi > 1 ? (real)1 : phi; }

__device__ real at_least(real x, real least) { return x < least ? least : x; }

// Shapes: out (count / width, width), b (width)
extern "C" __global__ void add_bias(real* out, const real* b, Size count, Size width) {
    EACH(i, count)
    out[i] += b[i % width];
}

// The sum over rows in two steps: `parts` threads for each column add every parts-th row, then a warp adds what they
// found. Shapes: x (rows, width) -> partials (parts, width)
extern "C" __global__ void sum_some(const real* x, real* partials, Size rows, Size width, Size parts) {
    EACH(i, parts * width)
    real sum = 0;
    for (Offset row = i / width; row < rows; row += parts) sum += x[row * width + i % width];
    partials[i] = sum;
}

// Shapes: x (rows, width) -> out (width)
extern "C" __global__ void sum_rest(const real* x, real* out, Size rows, Size width) {
    EACH_ROW(column, lane, width)
    real sum = 0;
    for (Offset row = lane; row < rows; row += 32) sum += x[row * width + column];
    sum = warp_sum(sum);
    if (lane == 0) out[column] = sum;
}

extern "C" __global__ void phi_forward(const real* u, real* out, Size count) {
    EACH(i, count)
    out[i] = phi(u[i]);
}

extern "C" __global__ void phi_backward(const real* dphi, const real* phi, real* du, Size count) {
    EACH(i, count)
    du[i] = dphi[i] * phi_slope(phi[i]);
}

extern "C" __global__ void gelu_forward(const real* x, real* s, real* out, Size count, double slope, double cubic) {
    EACH(i, count)
    const real u = x[i] * ((real)slope + (real)(slope * cubic) * x[i] * x[i]);
    s[i] = (real)0.5 * (1 + tanh(u));
    out[i] = x[i] * s[i];
}

extern "C" __global__ void gelu_backward(const real* dout, const real* x, const real* s, real* dx, Size count,
                                         double slope, double cubic) {
    EACH(i, count)
    const real twice_xdu = x[i] * ((real)(2 * slope) + (real)(6 * slope * cubic) * x[i] * x[i]);
    dx[i] = dout[i] * s[i] * (1 + (1 - s[i]) * twice_xdu);
}

// A warp per row, the row in registers. At width 1,024 layer_norm_backward takes 166 of the 255 that a thread can have
// (float32, sm_90, ptxas 12). At 2,048 they do not suffice, and 304 bytes of each thread go to memory, 412 with indices
// of 64 bits. No other kernel spills.
// Shapes: x, xhat, out (rows, WIDTH); gain, bias (WIDTH); rstd (rows)
extern "C" __global__ void layer_norm_forward(const real* x, const real* gain, const real* bias, real* xhat, real* rstd,
                                              real* out, Size rows, double eps) {
    EACH_ROW(row, lane, rows)
    real value[PER_LANE], sum = 0, squares = 0;
    for (int k = 0; k < PER_LANE; k++) {
        const int d = lane + 32 * k;
        value[k] = d < WIDTH ? x[row * WIDTH + d] : 0;
        sum += value[k];
    }
    const real mean = warp_sum(sum) / WIDTH;
    for (int k = 0; k < PER_LANE; k++) {
        value[k] = lane + 32 * k < WIDTH ? value[k] - mean : 0;
        squares += value[k] * value[k];
    }
    const real scale = 1 / sqrt(warp_sum(squares) / WIDTH + (real)eps);
    for (int k = 0; k < PER_LANE; k++) {
        const int d = lane + 32 * k;
        if (d < WIDTH) {
            xhat[row * WIDTH + d] = value[k] * scale;
            out[row * WIDTH + d] = value[k] * scale * gain[d] + bias[d];
        }
    }
    if (lane == 0) rstd[row] = scale;
}

// Warp w of `warps` takes rows w, w + warps, ... and sums their parts of dgain and dbias into row w of partials.
// Shapes: dout, xhat, dx (rows, WIDTH); rstd (rows); gain (WIDTH); partials (warps, 2 WIDTH), dgain beside dbias
extern "C" __global__ void layer_norm_backward(const real* dout, const real* xhat, const real* rstd, const real* gain,
                                               real* dx, real* partials, Size rows, Size warps) {
    EACH_ROW(warp, lane, warps)
    real dgain[PER_LANE], dbias[PER_LANE], dxhat[PER_LANE], hat[PER_LANE];
    for (int k = 0; k < PER_LANE; k++) dgain[k] = dbias[k] = 0;
    for (Offset row = warp; row < rows; row += warps) {
        real along_one = 0, along_xhat = 0;
        for (int k = 0; k < PER_LANE; k++) {
            const int d = lane + 32 * k;
            const real above = d < WIDTH ? dout[row * WIDTH + d] : 0;
            hat[k] = d < WIDTH ? xhat[row * WIDTH + d] : 0;
            dxhat[k] = d < WIDTH ? above * gain[d] : 0;
            dgain[k] += above * hat[k];
            dbias[k] += above;
            along_one += dxhat[k];
            along_xhat += dxhat[k] * hat[k];
        }
        along_one = warp_sum(along_one) / WIDTH;
        along_xhat = warp_sum(along_xhat) / WIDTH;
        for (int k = 0; k < PER_LANE; k++) {
            const int d = lane + 32 * k;
            if (d < WIDTH) dx[row * WIDTH + d] = rstd[row] * (dxhat[k] - along_one - hat[k] * along_xhat);
        }
    }
    for (int k = 0; k < PER_LANE; k++) {
        const int d = lane + 32 * k;
        if (d < WIDTH) {
            partials[warp * 2 * WIDTH + d] = dgain[k];
            partials[warp * 2 * WIDTH + WIDTH + d] = dbias[k];
        }
    }
}

// Attention: B sequences, N rows, D = heads * m columns. mask and phi_r are read only if has_mask, has_phi_r.

// phi(K), phi(K) + phi(R), and V, the last two masked. Rows of k and v are k_row and v_row numbers apart.
// Shapes: phi_r (N, D); mask (B N); phi_k_unmasked, phi_k_plus_r, live_v (B N, D)
extern "C" __global__ void write_forward(const real* k, const real* v, const real* phi_r, const real* mask,
                                         real* phi_k_unmasked, real* phi_k_plus_r, real* live_v, Size count, Size N, Size D,
                                         Size k_row, Size v_row, Size has_phi_r, Size has_mask) {
    EACH(i, count)
    const Offset row = i / D, d = i % D;
    const real live = has_mask ? mask[row] : 1;
    phi_k_unmasked[i] = phi(k[row * k_row + d]);
    phi_k_plus_r[i] = phi_k_unmasked[i] * live + (has_phi_r ? phi_r[row % N * D + d] : 0);
    live_v[i] = v[row * v_row + d] * live;
}

// The astrocyte's response g = (sum_n phi(k_n))^alpha, a warp per sequence and column; G has it in its head's row.
// Shapes: phi_k_unmasked (B, N, D); mask (B, N); total (B, D); G (B, heads, D)
extern "C" __global__ void response(const real* phi_k_unmasked, const real* mask, real* total, real* G, Size columns, Size N,
                                    Size D, Size heads, double alpha, double smallest, Size has_mask) {
    EACH_ROW(column, lane, columns)
    const Offset b = column / D, d = column % D, head = d / (D / heads);
    real sum = 0;
    for (Offset n = b * N + lane; n < (b + 1) * N; n += 32) sum += phi_k_unmasked[n * D + d] * (has_mask ? mask[n] : 1);
    sum = at_least(warp_sum(sum), (real)smallest);
    const real g = alpha == 1 ? sum : pow(sum, (real)alpha);
    if (lane == 0) total[column] = sum;
    for (Offset h = lane; h < heads; h += 32) G[(b * heads + h) * D + d] = h == head ? g : 0;
}

// The heads' own blocks of a product of all columns with all columns, scaled.
// Shapes: product (B, D, width), of which the first D columns are read -> blocks (B, heads, m, m)
extern "C" __global__ void own_blocks(const real* product, real* blocks, Size count, Size D, Size m, Size width,
                                      double scale) {
    EACH(i, count)
    const Offset row = i / m, first = row % D / m * m;
    blocks[i] = product[row * width + first + i % m] * (real)scale;
}

// The inverse: the heads' blocks on the diagonal, 0 elsewhere, and beside them G^T if width is D + heads.
// Shapes: blocks (B, heads, m, m), G (B, heads, D) -> joined (B, D, width)
extern "C" __global__ void join_heads(const real* blocks, const real* G, real* joined, Size count, Size D, Size m,
                                      Size width) {
    EACH(i, count)
    const Offset b = i / width / D, row = i / width % D, column = i % width, heads = D / m;
    real value = 0;
    if (column >= D)
        value = G[(b * heads + column - D) * D + row];
    else if (column / m == row / m)
        value = blocks[(b * D + row) * m + column % m];
    joined[i] = value;
}

// Y = read * P, P = 1 / C. Shapes: read (rows, D + heads) with C in its last columns; y (rows, D); P (rows, heads)
extern "C" __global__ void read_forward(const real* read, real* y, real* P, Size count, Size D, Size heads,
                                        double smallest) {
    EACH(i, count)
    const Offset row = i / D, d = i % D, m = D / heads, width = D + heads;
    const real p = 1 / at_least(read[row * width + D + d / m], (real)smallest);
    y[i] = read[row * width + d] * p;
    if (d % m == 0) P[row * heads + d / m] = p;
}

// The gradient of that, a warp per row and head: dread = dy * P and dC = -(dy . y) P, side by side as they were.
extern "C" __global__ void read_backward(const real* dy, const real* y, const real* P, real* dread, Size rows, Size D,
                                         Size heads) {
    EACH_ROW(pair, lane, rows * heads)
    const Offset row = pair / heads, head = pair % heads, m = D / heads;
    real sum = 0;
    for (Offset d = head * m + lane; d < (head + 1) * m; d += 32) {
        sum += dy[row * D + d] * y[row * D + d];
        dread[row * (D + heads) + d] = dy[row * D + d] * P[pair];
    }
    sum = warp_sum(sum);
    if (lane == 0) dread[row * (D + heads) + D + head] = -sum * P[pair];
}

// dK and dV from dphi(K) and dV of the products; dG is read if has_feedback: column D + head of dH.
// Shapes: dphi, dv, phi_k_unmasked (B N, D); mask (B N); dH (B, D, D + heads); total (B, D); dkv (B N, 2 D)
extern "C" __global__ void write_backward(const real* dphi, const real* dv, const real* phi_k_unmasked, const real* mask,
                                          const real* dH, const real* total, real* dkv, Size count, Size N, Size D,
                                          Size heads, double alpha, Size has_feedback, Size has_mask) {
    EACH(i, count)
    const Offset row = i / D, d = i % D, column = row / N * D + d;
    const real live = has_mask ? mask[row] : 1;
    real du = dphi[i];
    if (has_feedback) {
        const real dg = dH[column * (D + heads) + D + d / (D / heads)];
        du += alpha == 1 ? dg : dg * (real)alpha * pow(total[column], (real)(alpha - 1));
    }
    dkv[row * 2 * D + d] = du * live * phi_slope(phi_k_unmasked[i]);
    dkv[row * 2 * D + D + d] = dv[i] * live;
}

// Three kernels work on many arrays in one launch: a block of threads for each row of a table of integers. A row has the
// addresses of a piece of some arrays, how many numbers the piece has, and a mark.

// total += addend. A row of the table: total, addend, length, a mark that is not read.
extern "C" __global__ void add_all(const int64* table) {
    const int64* piece = table + 4 * (int64)blockIdx.x;
    real* total = (real*)piece[0];
    const real* addend = (const real*)piece[1];
    for (int64 i = threadIdx.x; i < piece[2]; i += blockDim.x) total[i] += addend[i];
}

// A row of the table: gradient, length, a mark that is not read.
extern "C" __global__ void sum_of_squares(const int64* table, real* partials) {
    const int64* piece = table + 3 * (int64)blockIdx.x;
    const real* g = (const real*)piece[0];
    real sum = 0;
    for (int64 i = threadIdx.x; i < piece[1]; i += blockDim.x) sum += g[i] * g[i];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) partials[((int64)blockIdx.x * blockDim.x + threadIdx.x) / 32] = sum;
}

// A row of the table: parameter, gradient, m, v, length, whether weight decay acts.
extern "C" __global__ void adamw(const int64* table, const real* norm, double clip_norm, double beta1, double beta2,
                                 double eps, double correct1, double correct2, double lr, double weight_decay) {
    const int64* piece = table + 6 * (int64)blockIdx.x;
    real* p = (real*)piece[0];
    const real* grad = (const real*)piece[1];
    real *m = (real*)piece[2], *v = (real*)piece[3];
    const real clip = (real)clip_norm / (norm[0] + (real)1e-6), scale = clip > 1 ? (real)1 : clip;
    const real keep = piece[5] ? (real)(1 - lr * weight_decay) : (real)1;
    for (int64 i = threadIdx.x; i < piece[4]; i += blockDim.x) {
        const real g = grad[i] * scale;
        m[i] = (real)beta1 * m[i] + (real)(1 - beta1) * g;
        v[i] = (real)beta2 * v[i] + (real)(1 - beta2) * g * g;
        p[i] = keep * p[i] - (real)(lr / correct1) * m[i] / (sqrt(v[i] / (real)correct2) + (real)eps);
    }
}
