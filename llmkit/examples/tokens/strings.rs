//! Texts that tokenizers stumble over, always the same for a number: scripts, emoji, blanks, controls, code, markup cut in two.
//!
//! Shared by the example and by the library's own test, so that both see what `lab/check_tokens.py` compares.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Text `number`.
pub fn nasty(number: u64) -> String {
    let mut dice = Dice(ChaCha8Rng::seed_from_u64(0x6e61_7374_7900_0000 ^ number));
    let pieces = 1 + dice.below(12);
    let mut text = String::new();
    for _ in 0..pieces {
        piece(&mut dice, &mut text);
        if dice.below(3) == 0 {
            text.push(' ');
        }
    }
    text
}

struct Dice(ChaCha8Rng);

impl Dice {
    fn below(&mut self, bound: u32) -> u32 {
        self.0.next_u32() % bound
    }

    fn of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len() as u32) as usize]
    }

    /// A character of this range, or a blank where the range has none (surrogates).
    fn char(&mut self, first: u32, last: u32) -> char {
        char::from_u32(first + self.below(last - first + 1)).unwrap_or(' ')
    }
}

const WORDS: &[&str] = &[
    "the",
    "The",
    "THE",
    "Hello",
    "tokenizer",
    "antidisestablishmentarianism",
    "naïve",
    "Straße",
    "İstanbul",
    "ǅ",
    "ﬁn",
    "don't",
    "DON'T",
    "it’s",
    "we'll",
    "I'VE",
    "'s",
    "'S",
    "''re",
    "o'clock",
    "rock'n'roll",
    "e-mail",
    "x_y",
    "CamelCaseWord",
    "über",
];
const CODE: &[&str] = &[
    "fn main() {\n    println!(\"{}\", x);\n}\n",
    "def f(x):\n\treturn x**2\n",
    "for(int i=0;i<10;++i){a[i]+=1;}",
    "#include <stdio.h>\r\n",
    "SELECT * FROM t WHERE a<>'b';",
    "</div><br/>",
    "{\"k\": [1, 2.5e-10, null]}",
    "https://a.b/c?d=e&f=%20#g",
    "0x1F_u8",
    "\\u00e9\\n",
    "a->b::c",
    "$HOME/.cache",
    "C:\\path\\to",
    "/* ... */",
    "<!-- -->",
    "```rust\n",
    "=====",
    "!!!???",
    "...",
    "…",
    "--",
    "(((",
    "[]{}",
    "x=y;;",
    "@user",
    "#tag",
    "a@b.cd",
    "~~~",
    "^^",
    "|||",
];
const NUMBERS: &[&str] = &[
    "0",
    "7",
    "42",
    "2024",
    "1,234,567.89",
    "3.14159265358979",
    "-17",
    "+49 30 1234567",
    "1e-5",
    "192.168.0.1",
    "2026-11-24",
    "½",
    "²³",
    "Ⅷ",
    "①",
    "٠١٢٣",
    "०१२",
    "１２３",
    "𝟘𝟙",
    "1st",
    "v2.0",
    "100%",
    "๑๒",
    "一二三",
];
const EMOJI: &[&str] = &[
    "🦀",
    "👩‍👩‍👧‍👦",
    "👨🏽‍💻",
    "🏳️‍🌈",
    "🇩🇪🇫🇷",
    "🇩",
    "❤️",
    "☺",
    "1️⃣",
    "👍🏿",
    "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "\u{200d}",
    "\u{fe0f}",
    "🤷‍♀️",
];
const BLANKS: &[&str] = &[
    " ", "  ", "   ", "        ", "\t", "\t\t", "\n", "\n\n", "\r\n", "\r", "\r\n\r\n", " \n ",
    "\u{a0}", "\u{3000}", "\u{2003}", "\u{2028}", "\u{85}", "\u{b}", "\u{c}", "\u{200b}",
    "\u{feff}", "\n\t  ", " \t\n", "\u{1680}", "\u{180e}",
];
const MARKUP: &[&str] = &[
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|im_",
    "<|im_start",
    "im_start|>",
    "|>",
    "<|",
    "< |im_end| >",
    "<|IM_END|>",
    "<|im_end|><|im_end|>",
    "<repo_name>",
    "<reponame>",
    "<file_sep>",
    "<filename>",
    "<gh_stars>",
    "<issue_start>",
    "<issue_comment>",
    "<issue_closed>",
    "<jupyter_start>",
    "<jupyter_text>",
    "<jupyter_code>",
    "<jupyter_output>",
    "<jupyter_script>",
    "<empty_output>",
    "<empty_",
    "<s>",
    "</s>",
    "[INST]",
    "<unk>",
    "<0x0A>",
    "Ġ",
    "Ċ",
    "▁",
];

fn piece(dice: &mut Dice, text: &mut String) {
    match dice.below(18) {
        0 | 1 => text.push_str(dice.of(WORDS)),
        2 => text.push_str(dice.of(CODE)),
        3 => text.push_str(dice.of(NUMBERS)),
        4 => text.push_str(dice.of(EMOJI)),
        5 => text.push_str(dice.of(BLANKS)),
        6 => text.push_str(dice.of(MARKUP)),
        7 => (0..1 + dice.below(8)).for_each(|_| text.push_str(dice.of(BLANKS))),
        // Made-up words, and digits among letters.
        8 => (0..1 + dice.below(12)).for_each(|_| text.push(dice.char(0x61, 0x7a))),
        9 => (0..1 + dice.below(20)).for_each(|_| text.push(dice.char(0x30, 0x39))),
        // Printable ASCII, then controls.
        10 => (0..1 + dice.below(20)).for_each(|_| text.push(dice.char(0x20, 0x7e))),
        11 => (0..1 + dice.below(4)).for_each(|_| text.push(dice.char(0x00, 0x1f))),
        // Scripts: Latin with marks, Greek and Cyrillic, Hebrew and Arabic (right to left), Indic, Thai, CJK, Hangul.
        12 => {
            const SCRIPTS: [(u32, u32); 10] = [
                (0xc0, 0x24f),
                (0x370, 0x52f),
                (0x590, 0x6ff),
                (0x900, 0xdff),
                (0xe00, 0xe7f),
                (0x1100, 0x11ff),
                (0x3040, 0x30ff),
                (0x4e00, 0x9fff),
                (0xac00, 0xd7a3),
                (0x2_0000, 0x2_a6df),
            ];
            let (first, last) = SCRIPTS[dice.below(10) as usize];
            (0..1 + dice.below(12)).for_each(|_| text.push(dice.char(first, last)));
        }
        // Letters under heaps of combining marks.
        13 => {
            text.push(dice.char(0x61, 0x7a));
            (0..1 + dice.below(6)).for_each(|_| text.push(dice.char(0x300, 0x36f)));
        }
        // What broken UTF-8 is read as; direction marks; private use; no characters at all.
        14 => {
            let odd = [
                "\u{fffd}",
                "\u{fffd}\u{fffd}",
                "\u{202e}abc\u{202c}",
                "\u{200f}",
                "\u{e000}",
                "\u{10ffff}",
                "\u{ffff}",
                "\u{fdd0}",
                "Ã©",
                "â€™",
                "\u{7f}",
                "\u{9d}",
            ];
            text.push_str(dice.of(&odd));
        }
        // Anything in Unicode.
        15 => (0..1 + dice.below(6)).for_each(|_| text.push(dice.char(0, 0x10_ffff))),
        // Symbols, punctuation, box drawing.
        16 => (0..1 + dice.below(8)).for_each(|_| text.push(dice.char(0x2000, 0x2bff))),
        // Long runs of one thing, very long ones rarely.
        _ => {
            let longest = if dice.below(40) == 0 { 4000 } else { 60 };
            let count = 1 + dice.below(longest);
            let unit = match dice.below(4) {
                0 => dice.of(BLANKS).to_owned(),
                1 => dice.of(EMOJI).to_owned(),
                2 => dice.char(0x21, 0x7e).to_string(),
                _ => dice
                    .of(&["a", "ab", "0", "é", "日", "\u{301}", " a", "<", "="])
                    .to_owned(),
            };
            (0..count).for_each(|_| text.push_str(&unit));
        }
    }
}
