"""Peak memory on a CUDA device. CuPy's memory pool keeps no peak, so a hook counts what is allocated and freed."""


class PeakMemory:
    """`with PeakMemory() as memory: ...`; then memory.peak is the most bytes alive at once since the start."""

    def __init__(self):
        import cupy

        outer = self
        self.alive = self.peak = 0

        class Hook(cupy.cuda.MemoryHook):
            name = "PeakMemory"

            def malloc_postprocess(self, *, mem_size, **_):
                outer.alive += mem_size
                outer.peak = max(outer.peak, outer.alive)

            def free_postprocess(self, *, mem_size, **_):
                outer.alive -= mem_size

        self._hook = Hook()

    def __enter__(self):
        self._hook.__enter__()
        return self

    def __exit__(self, *error):
        self._hook.__exit__(*error)
