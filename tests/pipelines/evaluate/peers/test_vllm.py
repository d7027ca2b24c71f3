import json

import torch

import orthrus_core
from pipelines.evaluate.peers.vllm import export_backbone, vllm_environment


def test_vllm_runs_in_its_process_on_as_many_threads_as_we_do(tmp_path):
    variables = vllm_environment(tmp_path, threads=4)
    assert variables["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert variables["OMP_NUM_THREADS"] == "4"
    assert variables["VLLM_CPU_OMP_THREADS_BIND"] == "0-3"


def test_the_exported_backbone_is_a_plain_qwen3(model_dir, tmp_path):
    model = orthrus_core.load_model(model_dir, dtype=torch.float32)
    fields = json.loads((export_backbone(model, tmp_path / "out") / "config.json").read_text())
    assert (fields["model_type"], fields["dtype"]) == ("qwen3", "float32")
    assert "block_size" not in fields
