from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from data_prep.pictures import Picture, fill_polygon, load_image, load_mask, resized
from medsegdiff.errors import DataError


def _one_line(caught, path):
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: got ")


class TestImages:
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
    def test_eight_bits_stay_as_they_are(self, tmp_path, picture, save, channels, suffix):
        array = picture(channels=channels)
        image, remarks = load_image(save(tmp_path / f"a{suffix}", array), channels=channels)
        np.testing.assert_array_equal(image, array.swapaxes(0, 1))
        assert image.dtype == np.uint8
        assert remarks == ()

    def test_grey_where_colours_are_wanted_is_refused(self, tmp_path, picture, save):
        path = save(tmp_path / "a.png", picture())
        with pytest.raises(
            DataError, match=r"got a grey image; allowed is one with 3 channels .*--channels 1"
        ) as caught:
            load_image(path, channels=3)
        _one_line(caught, path)

    def test_colours_where_grey_is_wanted_are_refused(self, tmp_path, picture, save):
        path = save(tmp_path / "a.png", picture(channels=3))
        with pytest.raises(DataError, match=r"got a colour image; .*--channels 3, or --average") as caught:
            load_image(path, channels=1)
        _one_line(caught, path)

    def test_colours_are_averaged_where_that_is_asked_for(self, tmp_path, save):
        array = np.zeros((2, 2, 3), np.uint8)
        array[0, 1] = (10, 20, 60)
        array[1, 0] = (255, 255, 254)
        image, _ = load_image(save(tmp_path / "a.png", array), channels=1, average=True)
        np.testing.assert_array_equal(image, [[0, 255], [30, 0]])

    def test_three_equal_channels_are_grey(self, tmp_path, picture, save):
        array = picture()
        image, _ = load_image(save(tmp_path / "a.png", np.stack([array] * 3, axis=-1)), channels=1)
        np.testing.assert_array_equal(image, array.T)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_full_opacity_is_dropped_and_transparency_is_counted(self, tmp_path, picture, save, channels):
        array = picture(channels=channels).reshape(8, 10, channels)
        alpha = np.full((8, 10, 1), 255, np.uint8)
        image, remarks = load_image(save(tmp_path / "a.png", np.concatenate([array, alpha], axis=2)), channels=channels)
        np.testing.assert_array_equal(image, array.squeeze().swapaxes(0, 1))
        assert remarks == ()
        alpha[:2, :3] = 7
        path = save(tmp_path / "b.png", np.concatenate([array, alpha], axis=2))
        image, remarks = load_image(path, channels=channels)
        np.testing.assert_array_equal(image, array.squeeze().swapaxes(0, 1))
        assert remarks == (f"{path}: 6 of 80 pixels are transparent; their colours are taken as stored",)

    def test_a_palette_gives_its_colours(self, tmp_path):
        image = Image.new("P", (4, 3))
        image.putpalette([255, 0, 0, 10, 20, 30])
        image.putpixel((2, 1), 1)
        image.save(tmp_path / "a.png")
        array, _ = load_image(tmp_path / "a.png", channels=3)
        assert array[2, 1].tolist() == [10, 20, 30]
        assert array[0, 0].tolist() == [255, 0, 0]

    def test_more_than_eight_bits_are_refused_or_stretched(self, tmp_path, save):
        array = np.array([[100, 200], [300, 4196]], np.uint16)
        path = save(tmp_path / "a.png", array)
        with pytest.raises(
            DataError, match=r"got pixels of type uint16 from 100 to 4196; allowed .*--rescale"
        ) as caught:
            load_image(path, channels=1)
        _one_line(caught, path)
        image, _ = load_image(path, channels=1, rescale=True)
        np.testing.assert_array_equal(image, np.rint((array.T - 100.0) / 4096 * 255))

    def test_sixteen_bits_of_small_numbers_are_kept(self, tmp_path, picture, save):
        array = picture()
        image, _ = load_image(save(tmp_path / "a.png", array.astype(np.uint16)), channels=1)
        np.testing.assert_array_equal(image, array.T)

    def test_not_a_number_is_refused(self, tmp_path, save):
        path = save(tmp_path / "a.tif", np.array([[1.0, np.nan]], np.float32))
        with pytest.raises(DataError, match="got pixels that are NaN or infinite"):
            load_image(path, channels=1, rescale=True)

    def test_several_pages_are_refused(self, tmp_path, picture, save):
        pages = [Image.fromarray(picture(seed)) for seed in (1, 2)]
        path = save(tmp_path / "a.tif", picture(), save_all=True, append_images=pages)
        with pytest.raises(DataError, match="got 3 pages; allowed is one picture a file") as caught:
            load_image(path, channels=3)
        _one_line(caught, path)


class TestMasks:
    @pytest.mark.parametrize("value", [1, 255])
    def test_foreground_is_one(self, tmp_path, mask, save, value):
        label, remarks = load_mask([save(tmp_path / "a.png", mask(value=value))])
        np.testing.assert_array_equal(label, mask(value=1).T)
        assert label.dtype == np.uint8
        assert remarks == ()

    def test_one_bit_and_sixteen_bits(self, tmp_path, mask, save):
        one, sixteen = mask().astype(bool), mask().astype(np.uint16) * 257
        for array in (one, sixteen):
            label, remarks = load_mask([save(tmp_path / "a.png", array)])
            np.testing.assert_array_equal(label, one.T)
            assert remarks == ()

    def test_values_in_between_are_thresholded_at_half_and_counted(self, tmp_path, mask, save):
        array = mask()
        array[0, :4] = (1, 127, 128, 254)
        path = save(tmp_path / "a.png", array)
        label, remarks = load_mask([path])
        assert label[:4, 0].tolist() == [0, 0, 1, 1]
        assert remarks == (f"{path}: 4 of 80 pixels lie between 0 and 255; thresholded at one half",)

    def test_a_mask_in_jpeg_is_the_mask(self, tmp_path, save):
        array = np.zeros((64, 64), np.uint8)
        array[13:50, 21:47] = 255
        label, remarks = load_mask([save(tmp_path / "a.jpg", array, quality=90)])
        np.testing.assert_array_equal(label, array.T > 0)
        assert "pixels lie between 0 and 255" in remarks[0]

    @pytest.mark.parametrize("values", [(0, 1, 2), (0, 100)])
    def test_other_numbers_are_refused_without_a_map(self, tmp_path, mask, save, values):
        array = mask(value=values[-1])
        array[0, : len(values)] = values
        path = save(tmp_path / "a.png", array)
        with pytest.raises(
            DataError, match=rf"got the mask values {', '.join(map(str, values))}; allowed are"
        ) as caught:
            load_mask([path])
        _one_line(caught, path)

    def test_values_are_mapped_to_classes(self, tmp_path, save):
        array = np.array([[0, 85, 170, 255]], np.uint8)
        label, remarks = load_mask([save(tmp_path / "a.png", array)], values={0: 0, 85: 2, 170: 1, 255: 2, 9: 1})
        assert label[:, 0].tolist() == [0, 2, 1, 2]
        assert remarks == ()

    def test_values_that_the_map_lacks_are_listed(self, tmp_path, save):
        path = save(tmp_path / "a.png", np.array([[0, 1, 4, 5]], np.uint8))
        with pytest.raises(DataError, match=r"got the mask values 4, 5; allowed are 0, 1; say with --values") as caught:
            load_mask([path], values={0: 0, 1: 1})
        _one_line(caught, path)

    def test_grey_with_alpha_is_its_grey(self, tmp_path, mask, save):
        array = np.stack([mask(), mask()], axis=-1)
        label, _ = load_mask([save(tmp_path / "a.png", array)])
        np.testing.assert_array_equal(label, mask(value=1).T)

    def test_a_shape_in_the_alpha_channel_is_refused(self, tmp_path, mask, save):
        path = save(tmp_path / "a.png", np.stack([np.full_like(mask(), 255), mask()], axis=-1))
        with pytest.raises(DataError, match="got a mask whose shape is in its transparency") as caught:
            load_mask([path])
        _one_line(caught, path)

    def test_grey_as_rgb_is_grey_and_colours_are_refused(self, tmp_path, mask, save):
        array = np.stack([mask()] * 3, axis=-1)
        np.testing.assert_array_equal(load_mask([save(tmp_path / "a.png", array)])[0], mask(value=1).T)
        array[..., 0] = 0
        path = save(tmp_path / "a.png", array)
        with pytest.raises(DataError, match="got a mask in colours; allowed are grey values or a palette") as caught:
            load_mask([path])
        _one_line(caught, path)

    @pytest.mark.parametrize(
        ("palette", "expected"),
        [
            ([0, 0, 0, 200, 0, 0], 1),  # colours: the numbers
            ([0, 0, 0, 255, 255, 255], 1),  # greys: the greys
            ([255, 255, 255, 0, 0, 0], 0),
        ],
    )
    def test_a_palette_of_colours_gives_numbers_and_one_of_greys_greys(self, tmp_path, palette, expected):
        image = Image.new("P", (4, 3))
        image.putpalette(palette)
        image.putpixel((2, 1), 1)
        image.save(tmp_path / "a.png")
        label, _ = load_mask([tmp_path / "a.png"])
        assert label[2, 1] == expected
        assert label[0, 0] == 1 - expected

    def test_several_masks_are_united(self, tmp_path, mask, save):
        left, right = mask(), mask()
        left[:, 6:], right[:, :6] = 0, 0
        paths = [save(tmp_path / "left.png", left), save(tmp_path / "right.png", right)]
        np.testing.assert_array_equal(load_mask(paths)[0], mask(value=1).T)
        save(paths[1], right[:5])
        message = r"right\.png: got 10 x 5 pixels where .*left\.png has 10 x 8; allowed is one and the same size"
        with pytest.raises(DataError, match=message):
            load_mask(paths)


def test_an_outline_belongs_to_its_structure_and_what_leaves_the_canvas_is_cut():
    canvas = Image.new("L", (6, 5))
    fill_polygon(canvas, [(1, 1), (3, 1), (3, 3), (1, 3)], 7)
    fill_polygon(canvas, [(5, 4), (9, 4), (9, 9), (5, 9)], 2)
    expected = np.zeros((5, 6), np.uint8)
    expected[1:4, 1:4], expected[4, 5] = 7, 2
    np.testing.assert_array_equal(np.asarray(canvas), expected)


def test_resizing_by_the_nearest_pixel_keeps_numbers_and_bilinear_masks_are_thresholded():
    image = np.arange(16, dtype=np.uint8).reshape(4, 4) * 10
    label = np.zeros((4, 4), np.uint8)
    label[:3, :2] = 1
    picture = Picture(image, label, ("kept",))
    nearest = resized(picture, 2, image_filter="nearest", mask_filter="nearest")
    np.testing.assert_array_equal(nearest.image, image[1::2, 1::2])
    np.testing.assert_array_equal(nearest.label, label[1::2, 1::2])
    assert nearest.remarks == ("kept",)
    bilinear = resized(picture, 2, image_filter="bilinear", mask_filter="bilinear")
    np.testing.assert_array_equal(bilinear.label, [[1, 0], [0, 0]])
    assert bilinear.label.dtype == np.uint8
    assert not np.isin(bilinear.image, image).all()


def test_resizing_keeps_width_and_height_apart():
    picture = Picture(np.zeros((6, 3), np.uint8), np.repeat(np.eye(3, dtype=np.uint8), 2, axis=0))
    np.testing.assert_array_equal(
        resized(picture, 3, image_filter="nearest", mask_filter="nearest").label, np.eye(3, dtype=np.uint8)
    )
