"""A whole body on a grid: what is drawn, and in which order."""

from collections.abc import Callable

from dsmseg.synthesis.phantom import abdomen, bowel, chest, pelvis, skeleton
from dsmseg.synthesis.phantom.canvas import Canvas, Frame, Pose
from dsmseg.synthesis.phantom.patient import Patient
from dsmseg.synthesis.phantom.trunk import Trunk

# What comes first gives way to what comes later, as far as that may replace it.
_ORDER: tuple[Callable[[Canvas, Trunk], None], ...] = (
    skeleton.draw_ribs,
    skeleton.draw_shoulders,
    skeleton.draw_spine,
    skeleton.draw_pelvis,
    pelvis.draw_muscles,
    chest.draw_heart,
    chest.draw_great_vessels,
    chest.draw_airways,
    chest.draw_esophagus,
    chest.draw_lung_vessels,
    abdomen.draw_liver,
    abdomen.draw_spleen,
    abdomen.draw_kidneys,
    abdomen.draw_pancreas,
    abdomen.draw_stomach,
    abdomen.draw_gallbladder,
    bowel.draw_duodenum,
    abdomen.draw_vessels,
    abdomen.draw_liver_vessels,
    pelvis.draw_rectum,
    pelvis.draw_bladder,
    pelvis.draw_pelvic_vessels,
    bowel.draw_colon,
    bowel.draw_small_bowel,
)


def draw_body(patient: Patient, frame: Frame, pose: Pose) -> Canvas:
    """Draw a patient on a grid. A part of a grid gets what it gets in the whole."""
    canvas, trunk = Canvas(frame, pose), Trunk(patient)
    trunk.draw(canvas)
    trunk.draw_breasts(canvas)
    for draw in _ORDER:
        draw(canvas, trunk)
    return canvas
