"""The same model written plainly in PyTorch, with autograd's gradients: the oracle of a test, the benchmark's peer.

Nothing of the package's arithmetic is used but the retention factors. Dropout is left out. PyTorch is no dependency:
only `measure.py`, `rmaat_np.torch_model` and tests that skip without PyTorch import this file.
"""

from .. import backend
from ..config import Config
from ..errors import InputError
from ..params import check_params, init_params
from ..plasticity import retention_factors

try:
    import torch
    import torch.nn.functional as F
    from torch.utils.checkpoint import checkpoint as run_checkpointed
except Exception as error:  # not installed, or a broken installation, which can raise anything
    raise InputError(f"PyTorch cannot be imported ({error}); pip install torch") from None

__all__ = ["Model", "logits", "loss", "to_torch"]


def to_torch(params: dict, requires_grad: bool = True, device: str = "cpu") -> dict:
    """The flat dict of host arrays as leaf tensors on a device."""
    tensors = {name: torch.tensor(array, device=device) for name, array in params.items()}
    return {name: tensor.requires_grad_(requires_grad) for name, tensor in tensors.items()}


def relative_features(params, cfg, layer):
    """phi(R) with R = r W_rel, in heads. Shapes: -> (h, M + L, m)."""
    w = params[f"blocks.{layer}.attn.rel.weight"]
    place = torch.arange(len(w), device=w.device)
    distance = (place[:, None] - place).abs().to(w.dtype)
    if cfg.position_decay == "shared":
        R = (torch.exp(-distance * cfg.position_scale) @ w).view(len(w), cfg.num_heads, -1).transpose(0, 1)
    else:
        if cfg.position_decay == "learned":
            scales = params[f"blocks.{layer}.attn.rel.log_decay"].exp()
        else:
            heads = torch.arange(cfg.num_heads, device=w.device, dtype=w.dtype)
            scales = cfg.position_scale * 2 ** (8 * heads / cfg.num_heads)
        R = torch.exp(-distance * scales[:, None, None]) @ w.view(len(w), cfg.num_heads, -1).transpose(0, 1)
    return F.elu(R) + 1


def project(x, w, b, num_heads):
    """x W + b in heads. Shapes: x (B, N, D), w (D, kD) -> a tuple of k tensors (B, h, N, D / h)."""
    B, N, D = x.shape
    return F.linear(x, w.T, b).view(B, N, -1, num_heads, D // num_heads).permute(2, 0, 3, 1, 4).unbind()


def attention(x, params, cfg, layer, phi_r, mask, num_queries):
    """Astromorphic or softmax attention of the first `num_queries` num_queries, with its projections.

    Shapes: x (B, N, D), mask (B, N) bool or None -> (B, num_queries, D)
    """
    name, (B, N, D), h = f"blocks.{layer}.attn", x.shape, cfg.num_heads
    w, b = params[f"{name}.qkv.weight"], params[f"{name}.qkv.bias"]
    if num_queries == N:
        q, k, v = project(x, w, b, h)
    else:
        (q,), (k, v) = project(x[:, :num_queries], w[:, :D], b[:D], h), project(x, w[:, D:], b[D:], h)
    if cfg.attention == "softmax":
        y = F.scaled_dot_product_attention(q, k, v, None if mask is None else mask[:, None, None])
    else:
        q, k = F.elu(q) + 1, F.elu(k) + 1
        if mask is not None:
            k, v = k * mask[:, None, :, None], v * mask[:, None, :, None]
        keys = k if phi_r is None else k + phi_r[:, :N]
        y = q @ (keys.transpose(2, 3) @ v / (D // h))
        if cfg.use_feedback:
            g = k.sum(dim=2, keepdim=True) ** cfg.alpha if cfg.alpha != 1 else k.sum(dim=2, keepdim=True)
            y = y / (q @ g.transpose(2, 3))
    y = y.transpose(1, 2).reshape(B, num_queries, D)
    return F.linear(y, params[f"{name}.out.weight"].T, params[f"{name}.out.bias"])


def norm(x, params, name):
    """Layer norm with the parameters of that name."""
    return F.layer_norm(x, x.shape[-1:], params[f"{name}.gain"], params[f"{name}.bias"], eps=1e-5)


def block(x, params, cfg, layer, phi_r, mask, num_queries):
    """One pre- or post-norm block of the first `num_queries` rows. Shapes: x (B, N, D) -> (B, num_queries, D)."""
    name = f"blocks.{layer}"

    def mlp(x):
        hidden = F.linear(x, params[f"{name}.mlp.in.weight"].T, params[f"{name}.mlp.in.bias"])
        active = F.gelu(hidden, approximate="tanh")
        return F.linear(active, params[f"{name}.mlp.out.weight"].T, params[f"{name}.mlp.out.bias"])

    if cfg.norm == "pre":
        x = x[:, :num_queries] + attention(
            norm(x, params, f"{name}.norm1"), params, cfg, layer, phi_r, mask, num_queries
        )
        return x + mlp(norm(x, params, f"{name}.norm2"))
    x = norm(x[:, :num_queries] + attention(x, params, cfg, layer, phi_r, mask, num_queries), params, f"{name}.norm1")
    return norm(x + mlp(x), params, f"{name}.norm2")


def segment(memory, tokens, t, params, cfg, phi_r, mask, skip_unread):
    """Read segment t. Its eight parameters are what a checkpoint of PyTorch has to be given one by one.

    skip_unread: leave out the token rows of the last block, which a memory readout never sees.

    Shapes: memory (B, M, D), tokens (B, n) -> written memory (B, M, D), what is read out (B, D)
    """
    M, n = cfg.num_memory, tokens.shape[1]
    x = F.embedding(tokens, params["embed.token"])
    if cfg.position_embedding:
        x = x + params["embed.position"][:n]
    if cfg.segment_embedding:
        x = x + params["embed.segment"][t]
    x = torch.cat([memory, x], dim=1)
    for layer in range(cfg.num_layers):
        unread = skip_unread and cfg.pooling == "memory" and layer == cfg.num_layers - 1
        x = block(x, params, cfg, layer, phi_r[layer], mask, M if unread else M + n)
    written = norm(x[:, :M], params, "memory.norm") if M else memory
    if cfg.pooling == "memory":
        return written, written.mean(dim=1)
    out = norm(x[:, M:], params, "out.norm")
    return written, (out if mask is None else out * (tokens != 0)[:, :, None]).sum(dim=1)


def _row_mask(tokens, num_memory):
    """True for memory num_queries and live tokens. Shapes: tokens (B, n) -> (B, M + n)."""
    mask = F.pad(tokens != 0, (num_memory, 0), value=True)
    mask[:, :1] |= ~mask.any(dim=1, keepdim=True)  # without any live row C would be 0; nothing reads such a row
    return mask


def _segment_counts(cfg, tokens):
    """T_b = ceil(n_b / L); n_b is the place of the last token, counted from 1. Shapes: tokens (B, n) -> (B)."""
    places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    lengths = ((tokens != 0) * places).amax(dim=1)
    return -(-lengths // cfg.segment_length)


def _batch_factors(cfg, tokens):
    """RF(t, T_b) for t = 1 .. T_b, then 0. Shapes: tokens (B, n) -> (B, largest T_b) float64 on the host."""
    totals = _segment_counts(cfg, tokens).tolist()
    factors = [torch.from_numpy(retention_factors(total, cfg.retention)) for total in totals]
    return torch.nn.utils.rnn.pad_sequence(factors, batch_first=True)


def _update_memory(memory, written, factor, params, retention):
    """mem_{t+1} of the retention modes. Shapes: memory, written (B, M, D), factor (B, 1, 1)."""

    def learned():
        read = torch.cat([memory, written], dim=2) @ params["memory.gate.weight"] + params["memory.gate.bias"]
        return memory + torch.sigmoid(torch.logit(factor) + read) * (written - memory)

    updates = {
        "none": lambda: written,
        "scale": lambda: factor * written,
        "integrate": lambda: memory + factor * (written - memory),
        "online": lambda: memory + factor * (written - memory),
        "learned": learned,
    }
    return updates[retention]()


def encode(params, cfg, tokens, factors, checkpoint: bool = False, skip_unread: bool = False):
    """Read all segments, each with the memory that the one before it wrote.

    Shapes: tokens (B, n), factors of `_batch_factors` (B, T) -> z (B, D)
    Raises: InputError where dropout is not 0.
    """
    if cfg.dropout:
        raise InputError(f"dropout is {cfg.dropout}, but the PyTorch model has none; set it to 0")
    L, B, live = cfg.segment_length, len(tokens), tokens != 0
    z = params["embed.token"].new_zeros(B, cfg.d_model)
    memory = params["memory.init"].expand(B, -1, -1) if cfg.num_memory else z.new_zeros(B, 0, cfg.d_model)
    phi_r = [relative_features(params, cfg, i) if cfg.astro else None for i in range(cfg.num_layers)]
    factors, totals, full = factors.to(z)[:, :, None, None], _segment_counts(cfg, tokens), bool(live.all())
    for t in range(factors.shape[1]):
        part = tokens[:, t * L : (t + 1) * L]
        mask = None if full else _row_mask(part, cfg.num_memory)
        arguments = (memory, part, t, params, cfg, phi_r, mask, skip_unread)
        if checkpoint:
            written, read = run_checkpointed(segment, *arguments, use_reentrant=False)
        else:
            written, read = segment(*arguments)
        z_next = read if cfg.pooling == "memory" else z + read
        memory_next = _update_memory(memory, written, factors[:, t], params, cfg.retention)
        if not full:  # a sequence that ended keeps its memory and its readout
            continuing = (t < totals)[:, None]
            z_next = torch.where(continuing, z_next, z)
            memory_next = torch.where(continuing[:, :, None], memory_next, memory)
        z, memory = z_next, memory_next
    return z / live.sum(dim=1, keepdim=True) if cfg.pooling == "mean" else z


def logits(params: dict, cfg: Config, tokens, checkpoint: bool = False, skip_unread: bool = False, encode=encode):
    """Class scores; the switches are those of `loss`. Shapes: tokens (B, n), for pairs (B, 2, n) -> (B, C)."""
    sequences = tokens.reshape(-1, tokens.shape[-1])
    z = encode(params, cfg, sequences, _batch_factors(cfg, sequences), checkpoint, skip_unread)
    if cfg.pair:
        a, b = z[0::2], z[1::2]
        z = torch.cat([a, b, a * b, a - b], dim=1)
        z = torch.relu(F.linear(z, params["head.hidden.weight"].T, params["head.hidden.bias"]))
    return F.linear(z, params["head.weight"].T, params["head.bias"])


def loss(params: dict, cfg: Config, tokens, labels, checkpoint: bool = False, skip_unread: bool = False, encode=encode):
    """Mean cross-entropy, a tensor that autograd can go back through.

    checkpoint: keep the memory tokens alone and run each segment again for its gradient, as AMRB does
    skip_unread: leave out the token rows of the last block, which a memory readout never sees
    encode: the function of that name, or what torch.compile makes of it
    """
    return F.cross_entropy(logits(params, cfg, tokens, checkpoint, skip_unread, encode), labels)


class Model(torch.nn.Module):
    """The model as a module of PyTorch, to train or to export there. Its state_dict has our parameters' names.

    Its parameters are those of `init_params(cfg)` until others are loaded.
    """

    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg = cfg
        for name, array in init_params(cfg).items():
            *path, leaf = name.split(".")
            module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, torch.nn.Module())
                module = getattr(module, part)
            module.register_parameter(leaf, torch.nn.Parameter(torch.tensor(backend.to_host(array))))

    def load_arrays(self, params: dict) -> "Model":
        """Take over the flat dict of arrays. Raises: InputError for those of another configuration. -> the module"""
        check_params(params, self.cfg)
        self.load_state_dict({name: torch.tensor(backend.to_host(array)) for name, array in params.items()})
        return self

    def forward(self, tokens):
        """Class scores. Shapes: tokens (B, n) ints, for pairs (B, 2, n), 0 is padding -> logits (B, C)"""
        return logits(dict(self.named_parameters()), self.cfg, tokens, skip_unread=True)
