"""RoAd: rotations and scales of pairs of outputs of linear maps, by PEFT."""

from lofit.methods.peft import preset

METHOD = preset(
    "road",
    {"peft_type": "ROAD", "variant": "road_1", "group_size": 64},
    summary="rotations and scales of pairs of outputs of linear maps",
    source="Liao and Monz 2024 (arXiv 2409.00119), RoAd1; group size of PEFT's comparison",
    learns="y' = R y, with R of 2 x 2 blocks (a cos t, -a sin t; a sin t, a cos t), by gradient",
    parameters="out, summed over the target modules",
)
