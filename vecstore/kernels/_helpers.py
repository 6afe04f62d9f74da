# mypy: disable-error-code="no-untyped-call"
"""How Numba compiles the helpers of kernels: to intermediate code alone, for those who inline them.

Numba makes each function it compiles ready to be called: it links in all that the function calls, optimizes the whole,
and emits machine code. A helper of a helper of a kernel would go through that three times before the kernel does, and
for all kinds of codes and metrics, which only the kernel tells apart, by constants. So a helper stays in intermediate
code, which takes a third off the time to compile all.
"""

from __future__ import annotations

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering


class _HelperLibrary(JITCodeLibrary):
    """Links in what a helper calls, and neither optimizes it nor makes machine code of it."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _HelperLowering(NativeLowering):
    _name = "vecstore_helper_lowering"

    def run_pass(self, state: Any) -> bool:
        state.library = _HelperLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        done: bool = super().run_pass(state)
        entry: Any = [].append  # what callers know the function by: some builtin method of its own
        lowered = state["cr"]
        state.targetctx.insert_user_function(entry, lowered.fndesc, [state.library])
        state.reload_init.extend(state.library._reload_init)
        state["cr"] = lowered._replace(cfunc=entry)
        return done


class HelperCompiler(CompilerBase):
    """Numba's pipeline, for helpers: `njit(pipeline_class=HelperCompiler)`."""

    def define_pipelines(self) -> list[Any]:
        pipeline = DefaultPassBuilder.define_nopython_pipeline(self.state)
        pipeline.passes = [(_HelperLowering if one is NativeLowering else one, what) for one, what in pipeline.passes]
        pipeline._finalized = False
        pipeline.finalize()
        return [pipeline]
