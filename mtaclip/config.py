"""Every configuration key this project adds to Detectron2's own, one line of comment each."""

from functools import reduce
from typing import Any

from detectron2.config import CfgNode as CN


def add_mtaclip_config(cfg: CN) -> None:
    """Add the project's keys, with their defaults, to a Detectron2 config.

    Defaults are the paper's choices for ADE20K with a CLIP ResNet-50; YAML files under `configs/` set the rest.

    Args:
        cfg: a config from `detectron2.config.get_cfg()`; changed in place.
    """
    _add_data(cfg)
    _add_weights(cfg)
    _add_clip(cfg)
    _add_swin(cfg)
    _add_model(cfg)
    _add_losses(cfg)
    _add_solver(cfg)
    _add_test(cfg)


def _add_data(cfg: CN) -> None:
    # Random resize: the two limits (long edge MAX_SIZE_TRAIN, short edge MIN_SIZE_TRAIN) times a ratio of this range.
    cfg.INPUT.SCALE_RANGE = (0.5, 2.0)
    # A crop is drawn again (up to 10 times) while one class fills more than this share of its labelled pixels.
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 0.75
    # Photometric distortion: random brightness, contrast, saturation and hue.
    cfg.INPUT.COLOR_AUG = True
    # Training files, per process, that may be missing or broken; other samples replace theirs, and all are logged.
    cfg.DATALOADER.TOLERATE_BROKEN = 0

    # A dataset of your own, in folders: `folder_train`, `folder_val` and `folder_test` (docs/custom_dataset.md).
    cfg.DATASETS.FOLDER = CN()
    # Folder of the dataset, relative to the working directory; "" = none.
    cfg.DATASETS.FOLDER.ROOT = ""
    # Text file of class names, one per line, the first for label 0; relative to ROOT, as the two folders are.
    cfg.DATASETS.FOLDER.CLASSES = "classes.txt"
    # The lines of that file; filled from it, or given instead of it.
    cfg.DATASETS.FOLDER.NAMES = ()
    # Folder of the images, in it and below it; {split} becomes train, val or test.
    cfg.DATASETS.FOLDER.IMAGES = "images/{split}"
    # Folder of the label maps, of the same sub-folders and stems as the images.
    cfg.DATASETS.FOLDER.LABELS = "labels/{split}"
    # What a label map's name has after the stem of its image.
    cfg.DATASETS.FOLDER.LABEL_SUFFIX = ".png"
    # Meaning of the labels: "train_ids" (0 .. C-1, 255 = ignored) or "ade20k" (0 = ignored, k = the k-th class).
    cfg.DATASETS.FOLDER.LABEL_FORMAT = "train_ids"


def _add_weights(cfg: CN) -> None:
    # Read weight files with pickled objects, too. They can run any code with your rights: only from people you trust.
    cfg.MODEL.WEIGHTS_ALLOW_PICKLE = False
    # Parts of MODEL.WEIGHTS that start anew in a new training: any of "classes", "queries", "contexts", "text".
    cfg.MODEL.WEIGHTS_REINIT = ()


def _add_clip(cfg: CN) -> None:
    cfg.MODEL.CLIP = CN()
    # Name of an open_clip model, or path of an open_clip model-config JSON file.
    cfg.MODEL.CLIP.ARCH = "RN50-quickgelu"
    # open_clip pretrained tag, path of a weight file or of a folder of Hugging Face; "" starts from random weights.
    cfg.MODEL.CLIP.PRETRAINED = "openai"
    # Folder of downloaded weights; "" is open_clip's own, in ~/.cache (HF_HOME moves that of Hugging Face).
    cfg.MODEL.CLIP.CACHE_DIR = ""
    # BatchNorm of the image tower: "SyncBN" (over all processes), "BN" (per process, as released) or "FrozenBN".
    cfg.MODEL.CLIP.NORM = "SyncBN"
    # ViT only: indices of the four transformer blocks whose outputs feed the feature pyramid.
    cfg.MODEL.CLIP.VIT_TAPS = (3, 5, 7, 11)


def _add_swin(cfg: CN) -> None:
    # The image tower of MODEL.BACKBONE.NAME "build_swin_backbone"; the defaults are Swin-T.
    cfg.MODEL.SWIN = CN()
    # Channels of the first of four stages; every further stage has twice as many.
    cfg.MODEL.SWIN.EMBED_DIM = 96
    # Blocks of the stages.
    cfg.MODEL.SWIN.DEPTHS = (2, 2, 6, 2)
    # Attention heads of the stages.
    cfg.MODEL.SWIN.HEADS = (3, 6, 12, 24)
    # Edge of an attention window, in tokens.
    cfg.MODEL.SWIN.WINDOW = 7
    # Share of the last block's residuals that training leaves out; it grows from 0 over the blocks.
    cfg.MODEL.SWIN.DROP_PATH = 0.3


def _add_model(cfg: CN) -> None:
    cfg.MODEL.MTACLIP = CN()
    # Width d of the pixel decoder, the mask-text decoder and the mask features.
    cfg.MODEL.MTACLIP.HIDDEN_DIM = 256

    # The text side: prompts, text queries and the mask-text similarity. Off = the Mask2Former baseline.
    cfg.MODEL.MTACLIP.TEXT = CN()
    # False removes the text tower, the prompts, the text queries and the contrastive loss.
    cfg.MODEL.MTACLIP.TEXT.ENABLED = True
    # Class texts: a vocabulary in `mtaclip/data/vocabularies/`, the path of a text file with one line per class, or
    # "folder" for DATASETS.FOLDER.NAMES.
    cfg.MODEL.MTACLIP.TEXT.VOCABULARY = "ade20k"
    # Texts of one class ("car; auto"): their "average" is its text, or each is a prompt of its own ("alternatives").
    cfg.MODEL.MTACLIP.TEXT.SYNONYMS = "average"
    # Text of the no-object class, the last of the K = C + 1 texts.
    cfg.MODEL.MTACLIP.TEXT.NO_OBJECT = "none"
    # Number n of learned contexts (prompts) every class text is read with.
    cfg.MODEL.MTACLIP.TEXT.NUM_CONTEXTS = 3
    # Learned vectors in one context.
    cfg.MODEL.MTACLIP.TEXT.CONTEXT_LENGTH = 8
    # Tokens of a class text, start and end included; a longer text is refused.
    cfg.MODEL.MTACLIP.TEXT.TOKEN_LENGTH = 5

    # Deformable-attention pixel decoder; the feature maps it reads are MODEL.SEM_SEG_HEAD.IN_FEATURES.
    cfg.MODEL.MTACLIP.PIXEL_DECODER = CN()
    # Encoder layers over strides 8, 16 and 32.
    cfg.MODEL.MTACLIP.PIXEL_DECODER.LAYERS = 6
    # Attention heads.
    cfg.MODEL.MTACLIP.PIXEL_DECODER.HEADS = 8
    # Sampling points per head and level.
    cfg.MODEL.MTACLIP.PIXEL_DECODER.POINTS = 4
    # Hidden width of the feed-forward blocks.
    cfg.MODEL.MTACLIP.PIXEL_DECODER.FFN_DIM = 1024

    # Masked-attention decoder over mask and text queries.
    cfg.MODEL.MTACLIP.DECODER = CN()
    # Number Q of mask queries.
    cfg.MODEL.MTACLIP.DECODER.NUM_QUERIES = 100
    # Decoder layers; each makes one prediction, and there is one more from the initial queries.
    cfg.MODEL.MTACLIP.DECODER.LAYERS = 9
    # Attention heads.
    cfg.MODEL.MTACLIP.DECODER.HEADS = 8
    # Hidden width of the feed-forward blocks.
    cfg.MODEL.MTACLIP.DECODER.FFN_DIM = 2048


def _add_losses(cfg: CN) -> None:
    cfg.MODEL.MTACLIP.LOSS = CN()
    # Weight of the classification loss, and of the class term in the matching cost.
    cfg.MODEL.MTACLIP.LOSS.CLASS_WEIGHT = 2.0
    # Weight of the mask (binary cross-entropy) loss and matching cost.
    cfg.MODEL.MTACLIP.LOSS.MASK_WEIGHT = 5.0
    # Weight of the dice loss and matching cost.
    cfg.MODEL.MTACLIP.LOSS.DICE_WEIGHT = 5.0
    # Relative weight of queries whose target is the no-object class.
    cfg.MODEL.MTACLIP.LOSS.NO_OBJECT_WEIGHT = 0.1
    # Points P sampled per mask, in matching and in the mask losses.
    cfg.MODEL.MTACLIP.LOSS.NUM_POINTS = 12544
    # Importance sampling: candidates are OVERSAMPLE_RATIO * NUM_POINTS uniform points.
    cfg.MODEL.MTACLIP.LOSS.OVERSAMPLE_RATIO = 3.0
    # Importance sampling: this share of the points are the most uncertain candidates, the others are uniform.
    cfg.MODEL.MTACLIP.LOSS.IMPORTANCE_SAMPLE_RATIO = 0.75
    # Divisor of mask and dice losses: "class_weight_sum" (as released) or "num_masks" (Mask2Former).
    cfg.MODEL.MTACLIP.LOSS.MASK_NORMALIZER = "class_weight_sum"
    # Supervise the prediction of the initial queries as well (Mask2Former does, the released MTA-CLIP does not).
    cfg.MODEL.MTACLIP.LOSS.SUPERVISE_INITIAL = False

    cfg.MODEL.MTACLIP.CONTRASTIVE = CN()
    # Weight of the mask-to-text contrastive loss.
    cfg.MODEL.MTACLIP.CONTRASTIVE.WEIGHT = 1.0
    # Positives and negatives: "all_prompts", "best_prompt_others_ignored" or "best_prompt_others_negative".
    cfg.MODEL.MTACLIP.CONTRASTIVE.TYPE = "best_prompt_others_negative"
    # Cosine similarities are divided by this before the softmax; 1.0 as released.
    cfg.MODEL.MTACLIP.CONTRASTIVE.TEMPERATURE = 1.0
    # Learn the temperature, starting from TEMPERATURE.
    cfg.MODEL.MTACLIP.CONTRASTIVE.LEARN_TEMPERATURE = False


def _add_solver(cfg: CN) -> None:
    # torch.compile for backbone, pixel decoder and decoder layers; needs a C++ compiler on the CPU, Triton on a GPU.
    cfg.SOLVER.COMPILE = False
    # Lay the images of image tower and pixel decoder out channels last, as convolutions take them fastest.
    cfg.SOLVER.CHANNELS_LAST = True
    # Compute what is cheap in image tower and pixel decoder again in the backward pass instead of keeping it.
    cfg.SOLVER.RECOMPUTE = False
    # Matrix products in TensorFloat-32 on GPUs that have it, where autocast does not apply.
    cfg.SOLVER.TF32 = False
    # The same bits in every run on the same machine, also on a GPU, where it costs time (docs/reliability.md).
    cfg.SOLVER.DETERMINISTIC = False
    # Steps with a loss, cost or gradient that is not finite which may be left out before one ends the training.
    cfg.SOLVER.SKIP_NONFINITE = 0
    # Parts that a batch is computed in, one after the other: same gradients, less memory.
    cfg.SOLVER.ACCUMULATE = 1
    # Learning-rate factor of the backbone.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    # Weight decay of learned query, position and level embeddings.
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.0
    # Weight decay of the backbone's normalisation layers (elsewhere WEIGHT_DECAY_NORM holds).
    cfg.SOLVER.WEIGHT_DECAY_BACKBONE_NORM = 0.02
    # Exponent of the polynomial decay that follows the linear warm-up.
    cfg.SOLVER.POLY_LR_POWER = 0.9
    # Periodic checkpoints kept; older ones are removed (the best and the final one are kept besides).
    cfg.SOLVER.CHECKPOINTS_KEPT = 3
    # Every this many iterations a checkpoint is written that is never removed; 0 = none.
    cfg.SOLVER.CHECKPOINT_KEEP_PERIOD = 0
    # Data type of autocast while SOLVER.AMP.ENABLED: "bf16" (CPU and GPU) or "fp16" (GPU, with loss scaling).
    cfg.SOLVER.AMP.DTYPE = "bf16"


def _add_test(cfg: CN) -> None:
    cfg.TEST.SLIDING_WINDOW = CN()
    # Predict overlapping windows of the (resized) image and average their class scores.
    cfg.TEST.SLIDING_WINDOW.ENABLED = False
    # Window height and width in pixels.
    cfg.TEST.SLIDING_WINDOW.CROP_SIZE = (512, 512)
    # Vertical and horizontal distance of neighbouring windows in pixels.
    cfg.TEST.SLIDING_WINDOW.STRIDE = (341, 341)
    # Windows that the model sees at a time, also of several images.
    cfg.TEST.SLIDING_WINDOW.BATCH = 4
    # Class of a mask query: "linear" head as released, "text" (mask-text similarity), or their "ensemble".
    cfg.TEST.CLASSIFIER = "linear"
    # Classes of the result, for CLASSIFIER "text": names ("road; tram"), a vocabulary or a file; "" = the trained ones.
    cfg.TEST.VOCABULARY = ""
    # "text" and "ensemble": similarities are divided by this before the softmax.
    cfg.TEST.TEXT_TEMPERATURE = 0.03
    # "ensemble": weight of the text in the geometric mean with the linear head.
    cfg.TEST.TEXT_WEIGHT = 0.5
    # Queries are left out of a tile's sum, on a CPU, while that lowers no class score by more than this.
    cfg.TEST.QUERY_EPS = 1e-5
    # Where class scores are summed over queries and windows: "model" (its device) or "cpu", which saves GPU memory.
    cfg.TEST.SCORES_DEVICE = "model"
    # Images that a process evaluates at a time; those of equal size share a batch.
    cfg.TEST.IMS_PER_BATCH = 1
    # Also score class boundaries: boundary IoU (Cheng et al. 2021), within 2 % of the image diagonal.
    cfg.TEST.BOUNDARY_IOU = False
    # Images that every evaluation draws, with prediction, truth and errors, to OUTPUT_DIR/snapshots/<dataset>/.
    cfg.TEST.SNAPSHOTS = 4
    # Also write all label maps, in the benchmark's format, to OUTPUT_DIR/predictions/<dataset>/, and go on from there.
    cfg.TEST.SAVE_PREDICTIONS = False


def value_of(cfg: CN, key: str) -> Any:
    """The value of a key by its full name, such as "SOLVER.MAX_ITER"."""
    return reduce(getattr, key.split("."), cfg)
