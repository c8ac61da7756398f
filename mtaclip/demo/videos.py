"""Videos and cameras in, videos out."""

def segment_video(
    file: Path,
    stem: str,
    predict: Callable[[NDArray[np.uint8]], Segmented],
    painter: Painter,
    output: Path,
    kinds: tuple[str, ...],
) -> None:
    """Decode, segment and draw the frames of a video side by side.

    Raises:
        OSError, ValueError: the video cannot be read to its end, or the results cannot be written; those of the frames
            before are complete.
    """
    with VideoReader(file) as video, Film(output, stem, painter, video.frame_rate, kinds) as film:
        with closing(pipeline(video.frames(), predict)) as results:
            for segmented in progress(results, video.frame_count, f"frame of {file.name}"):
                film.write(segmented)


def film_camera(args: argparse.Namespace) -> int:
    """Segment what a camera sees, the newest frame each time, until a key in the window, Ctrl-C or SIGTERM.

    Raises:
        OSError, ValueError: there is no such camera, or neither a window nor a folder to save to.
    """
    with_window = can_show_windows()
    if not with_window and args.output is None:
        raise ValueError("--webcam: OpenCV can show no window here; name a folder with --output to save the video.")
    kinds = tuple(args.save or VIDEO_KINDS)
    filmed = next((kind for kind in kinds if kind in FILMED_KINDS), "overlay")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as stack:
        video = stack.enter_context(VideoReader(args.webcam))
        predict, painter = load(args)
        film = window = None
        if args.output is not None:
            args.output.mkdir(parents=True, exist_ok=True)
            film = stack.enter_context(Film(args.output, "webcam", painter, video.frame_rate, kinds))
            logger.info("Saving to %s until Ctrl-C", args.output)
        if with_window:
            window = stack.enter_context(Window(video.name))
        results = stack.enter_context(closing(pipeline(video.frames(), predict, newest_only=True)))
        start = time.monotonic()
        try:
            for segmented in progress(results, None, "frame"):
                if film is not None:
                    film.write_until(segmented, time.monotonic() - start)
                if window is not None and not window.show(painter.frame(filmed, segmented)):
                    break
        except KeyboardInterrupt:
            logger.info("Stopped")
    return 0



