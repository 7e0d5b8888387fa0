"""A handful of triplets with images on disk, as `load_dataset("SynCPR", …)` gives them."""

from datasets import Dataset
from PIL import Image


def make_triplets(tmp_path) -> Dataset:
    """Twelve triplets: three quadruples, two directions, two diptychs each."""
    rows = []
    for quadruple in range(3):
        for diptych in range(2):
            left, right = (tmp_path / f"{quadruple}-{diptych}_{side}.png" for side in ("left", "right"))
            Image.new("RGB", (48, 96), (60 * quadruple, 90 * diptych, 0)).save(left)
            Image.new("RGB", (48, 96), (60 * quadruple, 90 * diptych, 200)).save(right)
            for direction, (reference, target) in enumerate([(left, right), (right, left)]):
                rows.append(
                    {
                        "reference_image": {"path": str(reference)},
                        "target_image": {"path": str(target)},
                        "reference_image_path": reference.name,
                        "target_image_path": target.name,
                        "edit_caption": "now in a red coat" if direction else "with a blue bag",
                        "reference_caption": "a hat",
                        "target_caption": "in a red coat with a hat",
                        "cpr_id": 2 * quadruple + direction,
                    }
                )
    return Dataset.from_list(rows)
