import pytest

from orthrus_core.engine.config import EngineConfig
from orthrus_core.readiness.compilation import should_compile


def decides(*, device_type: str = "cpu", **fields) -> bool:
    return should_compile(EngineConfig(max_sequences=8, **fields), device_type=device_type, num_layers=4)


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
@pytest.mark.parametrize(("asked", "outcome"), [("on", True), ("off", False)])
def test_what_the_config_says_holds(asked, outcome, device_type):
    assert decides(compile=asked, device_type=device_type, expected_tokens=10**7) is outcome


def test_auto_compiles_on_cuda_whatever_the_job():
    assert decides(device_type="cuda")


def test_auto_leaves_other_devices_alone():
    assert not decides(device_type="mps", expected_tokens=10**9)


def test_auto_compiles_on_a_cpu_when_the_job_is_long():
    # 8 sequences, 4 layers: 0.05 ms saved per token, against 2 * 18 s
    assert not decides(expected_tokens=700_000)
    assert decides(expected_tokens=740_000)


def test_auto_leaves_a_job_of_unknown_size_alone():
    assert not decides()
