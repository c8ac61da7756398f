"""Multi-scale deformable attention: the function, the layer, and Deformable DETR's form of the function."""

from mtaclip.ops.attention import MSDeformAttn
from mtaclip.ops.ms_deform_attn import ms_deform_attn, ms_deform_attn_classic

__all__ = ["MSDeformAttn", "ms_deform_attn", "ms_deform_attn_classic"]
