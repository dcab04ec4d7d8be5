"""Draw the sprite sheets once; the builder reads the sheets, never a font.

    python evals/suite/sprites/make_sprites.py --emoji NotoColorEmoji.ttf --fonts DIR_OF_DEJAVU_TTF

Fonts change between versions and machines; two small PNGs do not.
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
EMOJI_SIZE = 109  # the only bitmap size in NotoColorEmoji.ttf
CELL = 136  # one emoji, cropped and centred
LETTER_CELL = (88, 96)
LETTER_SIZE = 84
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
FACES = ("DejaVuSans-Bold", "DejaVuSerif-Bold", "DejaVuSansMono-Bold")
EMOJI = (
    "🧍🚲🚗🏍✈🚌🚆🚚⛵🐦🐱🐶🐴🐑🐄🐘🐻🦓🦒🎒"
    "☂🧳🪁🛹🍾☕🍌🍎🍊🥦🥕🍕🍩🎂🪑🛋💻📖⏰✂"
)  # fmt: skip  # the order of scenes.CATEGORIES
COLUMNS = 8


def emoji_sheet(font_path: Path) -> Image.Image:
    """All emoji in a grid of transparent cells, 8 per row."""
    font = ImageFont.truetype(str(font_path), EMOJI_SIZE)
    sheet = Image.new("RGBA", (COLUMNS * CELL, -(-len(EMOJI) // COLUMNS) * CELL))
    for index, character in enumerate(EMOJI):
        glyph = Image.new("RGBA", (200, 200))
        ImageDraw.Draw(glyph).text((20, 20), character, font=font, embedded_color=True)
        glyph = glyph.crop(glyph.getbbox())
        if max(glyph.size) > CELL:
            glyph.thumbnail((CELL, CELL))
        row, column = divmod(index, COLUMNS)
        left, top = (CELL - glyph.width) // 2, (CELL - glyph.height) // 2
        sheet.paste(glyph, (column * CELL + left, row * CELL + top))
    return sheet


def letter_sheet(fonts: Path) -> Image.Image:
    """Capital letters as grey masks, one row per face, all on one baseline, left aligned."""
    width, height = LETTER_CELL
    sheet = Image.new("L", (len(LETTERS) * width, len(FACES) * height))
    for row, face in enumerate(FACES):
        font = ImageFont.truetype(str(fonts / f"{face}.ttf"), LETTER_SIZE)
        for column, letter in enumerate(LETTERS):
            cell = Image.new("L", LETTER_CELL)
            ImageDraw.Draw(cell).text((4, height - 14), letter, font=font, fill=255, anchor="ls")
            sheet.paste(cell, (column * width, row * height))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--emoji", type=Path, required=True, help="NotoColorEmoji.ttf")
    parser.add_argument("--fonts", type=Path, required=True, help="directory of the DejaVu fonts")
    args = parser.parse_args()
    emoji_sheet(args.emoji).quantize(255, dither=Image.Dither.NONE).save(
        HERE / "emoji.png", optimize=True
    )
    letter_sheet(args.fonts).save(HERE / "letters.png", optimize=True)


if __name__ == "__main__":
    main()
