"""Image files in, pictures out."""

def segment_images(
    files: Sequence[tuple[Path, str]],
    predict: Callable[[NDArray[np.uint8]], Segmented],
    painter: Painter,
    output: Path,
    kinds: Sequence[str],
) -> int:
    """Read, segment and draw images side by side; unusable ones are named in the log and left out.

    Returns:
        the number of unusable images.
    """
    failures = 0
    images = (file for file, _ in files)
    with closing(pipeline(images, attempt(read_image), attempt(predict))) as results:
        for (file, stem), result in zip(files, progress(results, len(files), "image"), strict=True):
            save = attempt(lambda segmented, stem=stem: save_prediction(output, stem, segmented, painter, kinds))
            failures += report_problem(file, save(result))
    return failures



