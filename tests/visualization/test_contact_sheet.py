import numpy as np

from mtaclip.visualization import Palette, Segmented
from mtaclip.visualization.contact_sheet import draw_contact_sheet

PALETTE = Palette(("left", "right"), np.array([(255, 0, 0), (0, 0, 255)], np.uint8))


def sample(height: int, width: int) -> Segmented:
    labels = np.zeros((height, width), np.uint8)
    labels[:, width // 2 :] = 1
    return Segmented(np.full((height, width, 3), 100, np.uint8), labels)


def test_images_stand_beside_their_labels_two_to_a_row():
    # 40 x 80 and 640 x 1280 both become 160 x 320, with 8 pixels between image and overlay, 16 round each pair.
    sheet = draw_contact_sheet([sample(40, 80), sample(640, 1280), sample(80, 40)], PALETTE)
    assert sheet.dtype == np.uint8 and sheet.shape[1] == 16 + 2 * (320 + 8 + 320 + 16)
    for left in (16, 16 + 664):
        assert (sheet[16 + 150, left + 5] == 100).all()
        # half the class's colour in the overlay: (100 + 255) / 2 and 100 / 2
        assert sheet[16 + 150, left + 328 + 20].tolist() == [178, 50, 50]
        assert sheet[16 + 150, left + 328 + 300].tolist() == [50, 50, 178]
    # Rows are as high as the highest image, 320; the legend follows the second one, and names both classes' colours.
    legend = sheet[16 + 2 * (320 + 16) :].reshape(-1, 3).tolist()
    assert [255, 0, 0] in legend and [0, 0, 255] in legend


def test_a_single_thin_image():
    assert draw_contact_sheet([sample(2, 2000)], PALETTE).shape[1] == 16 + 320 + 8 + 320 + 16
