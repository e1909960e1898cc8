"""The compiler's estimates of cycles, read from the text of a program for a TPU."""

import pytest

from electra_jax.benchmarks.long_rows import estimated_cycles

PROGRAM = """HloModule jit_gradients, is_scheduled=true

%fused_computation.1 (param_0: f32[8]) -> f32[8] {
  ROOT %add = f32[8]{0} add(%param_0, %param_0)
}

%body.2 (arg: (s32[], f32[8])) -> (s32[], f32[8]) {
  %fusion.3 = f32[8]{0} fusion(%get.1), calls=%fused_computation.1, backend_config={"estimated_cycles":"30"}
}

%condition.4 (arg: (s32[], f32[8])) -> pred[] {
  %constant.5 = s32[]{:T(128)} constant(LIMIT)
  ROOT %lt = pred[]{:T(512)} compare(%get.2, %constant.5), direction=LT
}

ENTRY %main.6 (x: f32[8]) -> f32[8] {
  %kernel.7 = f32[8]{0} custom-call(%x), custom_call_target="tpu_custom_call", backend_config={}
  %copy.8 = f32[8]{0} copy(%kernel.7), backend_config={"flag_configs":[],"estimated_cycles":"500"}
  %while.9 = (s32[], f32[8]) while(%tuple.1), condition=%condition.4, body=%body.2
}
"""


def test_an_operation_in_a_loop_counts_once_for_each_iteration():
    assert estimated_cycles(PROGRAM.replace("LIMIT", "64")) == 500 + 64 * 30


def test_a_loop_without_a_known_end_is_an_error():
    text = PROGRAM.replace("constant(LIMIT)", "parameter(0)")
    with pytest.raises(ValueError, match=r"condition condition\.4: got limits \[\], expected one"):
        estimated_cycles(text)
