"""Multi-scale deformable attention: one function, whatever computes it."""

from mtaclip.ops.ms_deform_attn import ms_deform_attn, ms_deform_attn_classic

__all__ = ["ms_deform_attn", "ms_deform_attn_classic"]
