"""Who imports models, and who need not."""

import subprocess
import sys
from pathlib import Path

import pytest

import orthrus_core

ROOT = Path(__file__).parents[2]
WRITERS = ("pipelines.generate.config.job", "pipelines.generate.write.sink", "pipelines.generate.prompt.unit")


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_processes_that_plan_read_or_write_rows_do_not_wait_for_torch():
    program = f"import sys, {', '.join(WRITERS)}; print({{'torch', 'transformers'}} & {{*sys.modules}})"
    assert run(program) == "set()"


def test_the_driver_plans_without_importing_models():
    program = "import sys, pipelines.generate.build; print('orthrus_core.models.model' in sys.modules)"
    assert run(program) == "False"


def test_the_package_on_its_own_makes_itself_known_to_the_auto_classes():
    program = (
        "import orthrus_core; from transformers import AutoConfig, AutoModelForCausalLM as auto; "
        "config = AutoConfig.for_model('orthrus', block_size=4, mask_token_id=3, vocab_size=11); "
        "print(auto._model_mapping[type(config)].__name__)"
    )
    assert run(program) == "OrthrusLM"


def test_every_public_name_is_there():
    assert all(getattr(orthrus_core, name).__name__ == name for name in orthrus_core.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Motor'"):
        _ = orthrus_core.Motor
