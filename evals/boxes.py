"""RefCOCO: how a model is asked for a box, how it writes one, and which boxes count.

A box is left, top, right, bottom as fractions of the picture, as lmms-eval's task has its targets.
IoU and accuracy are lmms-eval's own functions, whatever the box was written in.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

from evals.lmms import task_module

Box = list[float]

_NUMBER = r"(-?(?:\d+\.?\d*|\.\d+))"
# Four numbers behind a bracket: [a, b, c, d], [[a, b, c, d]], (a,b),(c,d).
_FOUR = re.compile(rf"[\[(]\s*{_NUMBER}" + rf"[\s,()\[\]]+{_NUMBER}" * 3)
NOWHERE = [0.0, 0.0, 0.0, 0.0]


def question(doc: Mapping[str, Any], template: str) -> str:
    """The prompt that a model was taught, with the expression in it.

    Raises:
        ValueError: there is no expression.
    """
    if not isinstance(doc["answer"], str):
        raise ValueError("it has no expression")
    return template.replace("{expression}", doc["answer"])


def lmms(doc: dict[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """lmms-eval's record: four numbers in square brackets, taken for fractions of the picture.

    Raises:
        ValueError: the target is no box.
    """
    record = _task().refcoco_bbox_rec_process_result(doc, results)
    return _with(record, next(iter(record.values()))["pred"])


def written(
    doc: dict[str, Any], results: Sequence[str], boxes: Mapping[str, Any]
) -> dict[str, Any]:
    """lmms-eval's record, with the box read as the model writes it (``boxes`` of a model config).

    Raises:
        ValueError: the target is no box.
    """
    found = _FOUR.search(results[0])
    size = doc["image_width"], doc["image_height"]
    box = (
        WRITTEN[boxes["of"]]([float(number) for number in found.groups()], size, boxes)
        if found
        else NOWHERE
    )
    return _with(_task().refcoco_bbox_rec_process_result(doc, results), box)


def hit(items: Sequence[Mapping[str, Any]]) -> float:
    """1.0 when the box of one document has an IoU of 0.5 or more with the target."""
    (item,) = items
    return float(_task().compute_accuracy(item["bbox"], item["pred"], 0.5))


def parts(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What the column IoU is the mean of, for one document."""
    (result,) = results
    return {"iou": float(_task().compute_iou(result[MEAN]["bbox"], result[MEAN]["pred"]))}


def mean_iou(results: Sequence[Mapping[str, Any]]) -> float:
    """lmms-eval's mean IoU in percent, 0-100, as the accuracy beside it."""
    return 100 * float(_task().refcoco_bbox_rec_iou(results))


MEAN = "refcoco_mean_iou"


def _task() -> Any:
    return task_module("refcoco.utils_rec")


def _with(record: Mapping[str, Any], box: Box) -> dict[str, Any]:
    """A record with another answer, which lmms-eval's aggregation can take."""
    item = {**next(iter(record.values())), "pred": box}
    target = item["bbox"]
    right_way_round = target[0] < target[2] and target[1] < target[3]
    if len(target) != 4 or not all(map(isfinite, target)) or not right_way_round:
        raise ValueError(f"its target {target} is no box")
    if _area(box) + _area(target) <= 0:  # a box turned over has a negative area, and no overlap
        item["pred"] = NOWHERE
    return dict.fromkeys([*record, MEAN], item)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _of_square(box: Box, size: tuple[int, int], _: Mapping[str, Any]) -> Box:
    """From fractions of the picture padded to a square, centred to the pixel as LLaVA does."""
    side = max(size)
    starts = [(side - length) // 2 for length in size]
    return [(value * side - starts[i % 2]) / size[i % 2] for i, value in enumerate(box)]


def _of_picture(box: Box, _: tuple[int, int], boxes: Mapping[str, Any]) -> Box:
    """From fractions, or n-ths, of the picture."""
    return [value / boxes.get("scale", 1) for value in box]


def _of_resized(box: Box, size: tuple[int, int], boxes: Mapping[str, Any]) -> Box:
    """From pixels of the picture as Qwen's image processor resizes it."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    pixels = boxes["pixels"]
    limits = pixels["shortest_edge"], pixels["longest_edge"]
    height, width = smart_resize(size[1], size[0], boxes["factor"], *limits)
    return [value / (width, height)[i % 2] for i, value in enumerate(box)]


WRITTEN: dict[str, Callable[[Box, tuple[int, int], Mapping[str, Any]], Box]] = {
    "square": _of_square,
    "picture": _of_picture,
    "resized": _of_resized,
}
