"""Turn a checkpoint into a folder that plain `from_pretrained` loads."""

from pathlib import Path

import torch
from transformers import AutoTokenizer, CLIPImageProcessorPil, LlavaProcessor

from evals.suite.scenes import SIZE
from scripts.demo_training.language import build_model, to_bfloat16
from scripts.demo_training.tokenizer import CHAT_TEMPLATE


def export(checkpoint: Path, tokenizer_folder: Path, to: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    model = to_bfloat16(build_model(tokenizer))
    model.load_state_dict(torch.load(checkpoint)["model"])
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.generation_config, name, getattr(tokenizer, name))
    model.generation_config.do_sample = False
    model.save_pretrained(to)
    images = CLIPImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
    )
    LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(to)
