"""All views of one image's alignment as a page that needs no other file."""

from collections.abc import Sequence

from mtaclip.alignment.explain import Alignment
from mtaclip.alignment.words import Word
from mtaclip.visualization.context_maps import draw_context_maps
from mtaclip.visualization.encode import encode_png
from mtaclip.visualization.heat_map import draw_heat_map
from mtaclip.visualization.page import Html, element, image, page, section, table
from mtaclip.visualization.palette import Palette
from mtaclip.visualization.segments import HEADS, NAMES, draw_segments, segment_rows


def segments_section(alignment: Alignment, palette: Palette) -> Html:
    """The numbered segments and the table of all of them.

    Args:
        alignment: of an image.
        palette: names and colours of the classes.
    """
    picture = element("div", draw_segments(alignment, palette, table=False), class_="wide")
    listed = table(HEADS, segment_rows(alignment, palette), names=NAMES)
    return section(
        "Segments",
        picture,
        listed,
        note="A segment is what one mask query decides of one class; point at it to see its class, score and prompt. "
        "The score is the query's probability of the class. The closest text is that with the largest cosine, and the "
        "prompt the learned context before it.",
    )


def heat_map_section(alignment: Alignment) -> Html:
    """Mask queries against class texts.

    Args:
        alignment: of an image.
    """
    return section(
        "Masks and texts",
        element("div", draw_heat_map(alignment), class_="wide"),
        note="Cosines of the mask queries that decide pixels with the class texts that matter.",
    )


def context_maps_section(alignment: Alignment, texts: Sequence[int]) -> Html:
    """Where each prompt of some class texts fires.

    Args:
        alignment: of an image.
        texts: numbers of the class texts.
    """
    names = ", ".join(alignment.texts[number] for number in texts)
    picture = image(encode_png(draw_context_maps(alignment, texts)), "png", f"Where the prompts fire: {names}")
    return section(
        "Prompts",
        element("div", picture, class_="wide"),
        note="At every pixel, the largest product of a query's mask probability and its cosine with the prompted text.",
    )


def words_section(words: Sequence[Sequence[Sequence[Word]]]) -> Html:
    """The words that the learned context vectors are closest to.

    Args:
        words: see `mtaclip.alignment.nearest_words`.
    """
    heads, rows = word_rows(words)
    return section(
        "Words near the prompts",
        table(heads, rows, names=len(heads)),
        note="The tokens of CLIP's vocabulary with the largest cosine to each learned vector. A dash marks the "
        "beginning of a word. A small cosine means that the vector is no word.",
    )


def word_rows(words: Sequence[Sequence[Sequence[Word]]]) -> tuple[list[str], list[list[str]]]:
    """Heads, and a row for each context vector: its prompt, its place, and its nearest words with their cosines.

    Args:
        words: see `mtaclip.alignment.nearest_words`.
    """
    count = len(words[0][0])
    rows = [
        [str(prompt), str(place), *(f"{word.text} {word.similarity:.2f}" for word in vector)]
        for prompt, context in enumerate(words, start=1)
        for place, vector in enumerate(context, start=1)
    ]
    return ["prompt", "vector", *(f"word {rank}" for rank in range(1, count + 1))], rows


def alignment_page(title: str, alignment: Alignment, sections: Sequence[Html]) -> str:
    """Write the page.

    Args:
        title: name of the image.
        alignment: of the image.
        sections: in their order.
    """
    height, width = alignment.image.shape[:2]
    contexts, queries, texts = alignment.similarity.shape
    facts = (f"{width} x {height} pixels", f"{queries} mask queries", f"{contexts} prompts of {texts} class texts")
    return page(title, facts, *sections)
