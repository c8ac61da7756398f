"""Pictures of predictions and label maps."""

from mtaclip.visualization.legend import draw_legend
from mtaclip.visualization.overlay import draw_overlay
from mtaclip.visualization.painter import Painter, Segmented
from mtaclip.visualization.palette import Palette, colour_map
from mtaclip.visualization.save import save_prediction

__all__ = ["Painter", "Palette", "Segmented", "colour_map", "draw_legend", "draw_overlay", "save_prediction"]
