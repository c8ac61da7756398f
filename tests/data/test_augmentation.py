"""Augmentations against numbers worked out by hand and a slow, literal version of the recipe."""

import colorsys

import numpy as np
import pytest
from detectron2.data import transforms as T

from mtaclip.data.augmentation import (
    CvResize,
    PhotometricDistortion,
    RandomHorizontalFlip,
    RandomScaleCrop,
    ResizeWithin,
    ScaleCropTransform,
    change_hue,
    change_saturation,
    change_values,
    resize_within,
)


@pytest.mark.parametrize(
    ("size", "limits", "expected"),
    [
        ((1024, 2048), (512, 2048), (512, 1024)),  # the short edge decides: s = 1/2
        ((333, 500), (512, 2048), (512, 769)),  # s = 512/333; 500 s = 768.77, + 0.5 rounded down = 769
        ((100, 1000), (512, 2048), (205, 2048)),  # the long edge decides: s = 2.048; 204.8 + 0.5 -> 205
        ((512, 683), (256, 1024), (256, 342)),  # 683 / 2 = 341.5, + 0.5 = 342
        ((1, 1000), (512, 10), (1, 10)),  # never less than one pixel
    ],
)
def test_resize_within_two_limits(size, limits, expected):
    resize = resize_within(*size, *limits)
    assert (resize.new_height, resize.new_width) == expected
    assert resize.apply_image(np.zeros((*size, 3), np.uint8)).shape == (*expected, 3)


def test_images_are_resized_bilinearly_and_labels_by_the_nearest_lower_index():
    # Doubled, 0 100 has its samples at -0.25, 0.25, 0.75, 1.25 of the source. Halved, index i is taken from 2 i.
    doubled = resize_within(1, 2, 2, 4).apply_image(np.array([[[0] * 3, [100] * 3]], np.uint8))
    assert doubled[0, :, 0].tolist() == [0, 25, 75, 100]
    labels = np.array([[0, 1, 2, 3], [4, 5, 6, 7]], np.uint8)
    assert resize_within(2, 4, 1, 2).apply_segmentation(labels).tolist() == [[0, 2]]


def test_coordinates_follow():
    assert resize_within(10, 20, 5, 100).apply_coords(np.array([[20.0, 10.0]])).tolist() == [[10.0, 5.0]]


def test_random_scale_multiplies_both_limits_and_rounds_down():
    np.random.seed(3)
    ratio = np.random.uniform(0.5, 2.0)
    np.random.seed(3)
    transform = RandomScaleCrop((0.5, 2.0), 100, 301).get_transform(np.zeros((200, 400), np.uint8))
    resize = transform.resize
    scale = min(int(100 * ratio) / 200, int(301 * ratio) / 400)
    assert (resize.new_height, resize.new_width) == (int(200 * scale + 0.5), int(400 * scale + 0.5))
    assert transform.apply_image(np.zeros((200, 400, 3), np.uint8)).shape == (resize.new_height, resize.new_width, 3)


def test_random_scale_covers_its_range():
    np.random.seed(0)
    augmentation = RandomScaleCrop((0.5, 2.0), 100, 1000)
    heights = [augmentation.get_transform(np.zeros((100, 200), np.uint8)).new_height for _ in range(300)]
    assert 50 <= min(heights) < 55
    assert 195 < max(heights) <= 200
    with pytest.raises(ValueError, match="INPUT.SCALE_RANGE"):
        RandomScaleCrop((2.0, 0.5), 100, 1000)


def test_crop_is_clipped_to_the_image():
    crop = RandomScaleCrop((1.0, 1.0), 10, 20, (64, 8), 0.75).get_transform(np.zeros((10, 20), np.uint8))
    assert crop.apply_image(np.zeros((10, 20, 3), np.uint8)).shape == (10, 8, 3)


def crop_positions(labels, max_share, draws):
    augmentation = RandomScaleCrop((1.0, 1.0), *labels.shape, (4, 4), max_share)
    return np.bincount([augmentation.get_transform(labels).left for _ in range(draws)], minlength=5) / draws


def test_crop_is_drawn_again_while_one_class_fills_it():
    # Left half class 0, right half class 1; a window of 4 columns starts at 0 .. 4. Only at 2 both classes have half;
    # at 1 and 3 the larger one has exactly 3/4, which is not below 0.75. A window at 2 is found at once or in one of
    # ten retries with probability 1 - 0.8^11 = 0.914, the four others share the rest.
    np.random.seed(0)
    labels = np.repeat(np.array([[0, 0, 0, 0, 1, 1, 1, 1]], np.uint8), 4, axis=0)
    share = crop_positions(labels, 0.75, 2000)
    assert share[2] == pytest.approx(0.914, abs=0.025)
    assert share[[0, 1, 3, 4]].max() < 0.04
    assert crop_positions(labels, 1.0, 2000) == pytest.approx(np.full(5, 0.2), abs=0.04)


def test_ignored_pixels_are_no_class():
    # Windows at 0 and 1 see one class and ignored pixels; only from 2 on there are two classes, half each at 4.
    np.random.seed(0)
    labels = np.repeat(np.array([[0, 0, 0, 255, 255, 0, 1, 255]], np.uint8), 4, axis=0)
    share = crop_positions(labels, 0.75, 1000)
    assert share[[3, 4]].sum() > 0.95  # 3: [255 255 0 1], 4: [255 0 1 255]; 2: [0 255 255 0] has one class


def test_an_image_of_one_class_keeps_its_last_window():
    np.random.seed(0)
    share = crop_positions(np.zeros((4, 8), np.uint8), 0.75, 500)
    assert (share > 0.1).all()


def plain_scale_and_crop(image, labels, scale_range, limits, size, max_share):
    """The recipe on whole arrays: resize everything, then draw windows of the result."""
    ratio = np.random.uniform(*scale_range)
    resize = resize_within(*labels.shape, *(max(1, int(limit * ratio)) for limit in limits))
    image, labels = resize.apply_image(image), resize.apply_segmentation(labels)
    if size is None:
        return image, labels
    height, width = min(size[0], labels.shape[0]), min(size[1], labels.shape[1])
    for _ in range(11):
        top = np.random.randint(labels.shape[0] - height + 1)
        left = np.random.randint(labels.shape[1] - width + 1)
        window = labels[top : top + height, left : left + width]
        counts = np.bincount(window[window != 255], minlength=1)
        if max_share >= 1 or ((counts > 0).sum() > 1 and counts.max() < max_share * counts.sum()):
            break
    return image[top : top + height, left : left + width], window


@pytest.mark.parametrize("scale_range", [(0.5, 2.0), (0.2, 0.4), (2.0, 4.0), (0.5, 0.5), (1.0, 1.0), (2.0, 2.0)])
def test_a_crop_before_the_resize_is_the_crop_after_it_to_the_bit(scale_range):
    rng = np.random.default_rng(0)
    again = 0
    for seed in range(60):
        height, width = rng.integers(1, 200, 2)
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        labels = np.kron(rng.choice(np.array([0, 1, 255], np.uint8), (7, 7)), np.ones((29, 29), np.uint8))
        labels = np.ascontiguousarray(labels[:height, :width])
        limits = (min(height, width), max(height, width)) if seed % 2 else rng.integers(1, 300, 2).tolist()
        size = None if seed % 5 == 0 else tuple(rng.integers(1, 150, 2).tolist())
        share = 1.0 if seed % 7 == 0 else 0.75
        np.random.seed(seed)
        expected = plain_scale_and_crop(image, labels, scale_range, limits, size, share)
        state = np.random.get_state()[2]
        np.random.seed(seed)
        crop = RandomScaleCrop(scale_range, *limits, size, share).get_transform(labels)
        assert np.random.get_state()[2] == state  # the same draws
        assert np.array_equal(crop.apply_image(image), expected[0])
        assert np.array_equal(crop.apply_segmentation(labels), expected[1])
        again += crop.corner[0] * crop.corner[1] < height * width
    assert again > 10  # the corner is not always the whole image


def test_crop_at_the_size_of_cityscapes_to_the_bit():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (1024, 2048, 3), dtype=np.uint8)
    labels = np.kron(rng.integers(0, 19, (32, 64), dtype=np.uint8), np.ones((32, 32), np.uint8))
    for seed in range(6):
        np.random.seed(seed)
        expected = plain_scale_and_crop(image, labels, (0.5, 2.0), (1024, 2048), (512, 1024), 0.75)
        np.random.seed(seed)
        crop = RandomScaleCrop((0.5, 2.0), 1024, 2048, (512, 1024), 0.75).get_transform(labels)
        assert np.array_equal(crop.apply_image(image), expected[0])
        assert np.array_equal(crop.apply_segmentation(labels), expected[1])


def test_coordinates_are_scaled_and_moved():
    crop = ScaleCropTransform(CvResize(10, 20, 20, 40), 3, 5, 8, 8)
    assert crop.apply_coords(np.array([[10.0, 4.0]])).tolist() == [[15.0, 5.0]]
    with pytest.raises(ValueError, match="10 x 20, not"):
        crop.apply_image(np.zeros((11, 20, 3), np.uint8))


def test_values_are_clipped_and_truncated():
    # 11 * 1.5 = 16.5 -> 16; 200 * 1.5 = 300 -> 255; 30 - 20.4 = 9.6 -> 9; 10 - 20.4 < 0 -> 0
    assert change_values(np.array([[10, 11, 200]], np.uint8), 1.5, 0.0).tolist() == [[15, 16, 255]]
    assert change_values(np.array([[30, 10]], np.uint8), 1.0, -20.4).tolist() == [[9, 0]]


def test_saturation_and_hue_of_pure_red():
    red = np.array([[[255, 0, 0]]], np.uint8)
    # saturation 255 * 0.5 = 127.5 -> 127, so green and blue become 255 * (1 - 127/255) = 128
    assert change_saturation(red, 0.5).tolist() == [[[255, 128, 128]]]
    assert change_saturation(red, 1.5).tolist() == [[[255, 0, 0]]]
    assert change_hue(red, 60).tolist() == [[[0, 255, 0]]]  # 120 degrees on is green
    assert change_hue(red, -60).tolist() == [[[0, 0, 255]]]  # and 120 degrees back is blue


def test_hue_agrees_with_the_standard_library():
    pixel = np.array([[[200, 120, 40]]], np.uint8)
    hue, saturation, value = colorsys.rgb_to_hsv(200 / 255, 120 / 255, 40 / 255)
    expected = np.array(colorsys.hsv_to_rgb(hue + 15 / 180, saturation, value)) * 255
    assert np.abs(change_hue(pixel, 15)[0, 0] - expected).max() <= 2


def literal_recipe(image):
    """The recipe line by line, one draw after the other."""
    if np.random.randint(2):
        image = change_values(image, 1.0, np.random.uniform(-32, 32))
    contrast_first = np.random.randint(2)
    if contrast_first and np.random.randint(2):
        image = change_values(image, np.random.uniform(0.5, 1.5), 0.0)
    if np.random.randint(2):
        image = change_saturation(image, np.random.uniform(0.5, 1.5))
    if np.random.randint(2):
        image = change_hue(image, np.random.randint(-18, 18))
    if not contrast_first and np.random.randint(2):
        image = change_values(image, np.random.uniform(0.5, 1.5), 0.0)
    return image


def test_photometric_distortion_follows_the_recipe_and_leaves_labels_alone():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    labels = rng.integers(0, 5, (8, 8), dtype=np.uint8)
    unchanged = 0
    for seed in range(200):
        np.random.seed(seed)
        expected = literal_recipe(image)
        np.random.seed(seed)
        inputs = T.AugInput(image.copy(), sem_seg=labels.copy())
        PhotometricDistortion()(inputs)
        assert np.array_equal(inputs.image, expected)
        assert np.array_equal(inputs.sem_seg, labels)
        unchanged += np.array_equal(expected, image)
    assert 3 <= unchanged <= 25  # all four coins say no once in 16 times: 12.5 of 200


def test_flip_is_detectron2s_with_the_same_draws():
    image = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    flipped = 0
    for seed in range(20):
        results = []
        for flip in (T.RandomFlip(prob=0.5), RandomHorizontalFlip(prob=0.5)):
            np.random.seed(seed)
            inputs = T.AugInput(image.copy(), sem_seg=image[..., 0].copy())
            transform = flip(inputs)
            results.append((inputs.image, inputs.sem_seg, transform.apply_coords(np.array([[3.0, 2.0]]))))
        for theirs, ours in zip(*results, strict=True):
            assert np.array_equal(theirs, ours)
        flipped += np.array_equal(results[1][0], image[:, ::-1])
    assert 4 < flipped < 16


def test_resize_for_tests_takes_any_image():
    inputs = T.AugInput(np.zeros((60, 90, 3), np.uint8))
    ResizeWithin(30, 1000)(inputs)
    assert inputs.image.shape == (30, 45, 3)


def test_the_seed_decides():
    def sample(seed):
        np.random.seed(seed)
        image = np.random.default_rng(1).integers(0, 256, (40, 80, 3), dtype=np.uint8)
        inputs = T.AugInput(image, sem_seg=np.ascontiguousarray(image[..., 0] // 64))
        crop = RandomScaleCrop((0.5, 2.0), 40, 80, (24, 24), 0.75)
        T.AugmentationList([crop, T.RandomFlip(prob=0.5), PhotometricDistortion()])(inputs)
        return inputs.image, inputs.sem_seg

    for first, second in zip(sample(4), sample(4), strict=True):
        assert np.array_equal(first, second)
    assert not np.array_equal(sample(4)[0], sample(5)[0])
