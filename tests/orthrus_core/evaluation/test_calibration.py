import pytest
import torch

from orthrus_core.evaluation.calibration import (
    calibrate_hardware,
    compare_forward,
    measure_forward,
    shape_of,
)
from orthrus_core.evaluation.cost import forward_s
from tests.small_models import small_orthrus


def test_calibration_finds_figures_and_predicts_the_forward_it_was_made_with():
    model = small_orthrus()
    calibration = calibrate_hardware(model, seconds=0.02)
    hardware = calibration.hardware
    assert hardware.bytes_per_s > 0
    assert hardware.flops_per_s == max(calibration.flops_per_s.values())
    predicted_s = forward_s(hardware, shape_of(model), rows=1, sequences=1, context=0)
    measured_s = measure_forward(model, rows=1, sequences=1, context=0, seconds=0.02)
    assert 0.1 < predicted_s / measured_s < 10  # a busy machine may be several times off


def test_a_comparison_names_what_ran_and_how_far_the_prediction_is():
    model = small_orthrus()
    hardware = calibrate_hardware(model, seconds=0.01).hardware
    comparison = compare_forward(model, hardware, rows=8, sequences=2, context=20, seconds=0.01)
    assert (comparison.rows, comparison.sequences, comparison.context) == (8, 2, 20)
    assert comparison.ratio == comparison.predicted_s / comparison.measured_s > 0


def test_the_shape_of_a_model_counts_its_own_dtype():
    assert shape_of(small_orthrus()).dtype_bytes == 4
    assert shape_of(small_orthrus(dtype=torch.bfloat16)).dtype_bytes == 2


def test_rows_that_cannot_be_shared_evenly_are_refused():
    with pytest.raises(ValueError, match="multiple of sequences"):
        measure_forward(small_orthrus(), rows=7, sequences=2, context=0)
