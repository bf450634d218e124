"""Texts that tokenizers get wrong: a fixed corpus and random strings from a fixed seed."""
import random

CORPUS = [
    "", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r\n\r\n ", " \n \n\n \t x", "a", "A", "0",
    "Hello world", " Hello world", "Hello  world ", "Hello, y'all! How are YOU'RE we'LL 'tis I'D",
    "I've 'told he'S there, 'RE you sure? 'M not sure I'll make it, 'D you like? We'Ve a'lL",
    "'\u017f and \u2019s and '\u017ft", "x's'll'd''s", "don\u2019t", "3 33 333 3333 33333 3333"
    "33 3.14 1,000,000",
    "\u0663\u0664\u0665\u0666 \u0967\u0968\u0969\u096a \u2160\u2161\u2162\u2163 \u00bd\u00bc"
    "\u00b2\u00b3\u00b9 \u2460\u2461\u2462\u2463",
    "camelCaseHTMLParser getHTTPResponse XMLHttpRequest iPhone ABCdefGHI",
    "\u01c5\u01c8\u01cb \u02b0\u02b1 \u0130stanbul \u0131 \u00df \u1e9e \ufb01\ufb02",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01\u6211\u60f3\u5728apple\u5de5\u4f5c1314151\u5929"
    "\uff5e", "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c \u30ab\u30bf\u30ab\u30ca \uc548"
    "\ub155\ud558\uc138\uc694 \uc138\uacc4",
    "\u043d\u0435\u0449\u043e \u043d\u0430 \u0411\u044a\u043b\u0433\u0430\u0440\u0441\u043a"
    "\u0438 \u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac", "\u1780\u17b6\u1793\u17cb\u178f"
    "\u17c2\u1796\u17b7\u179f\u17c1\u179f\u17a2\u17b6\u1785\u1781\u179b\u1785\u17c1\u1789",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 \u060c \u05e9"
    "\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd \u200f\u202bRTL\u202c", "\u0939\u093f\u0928"
    "\u094d\u0926\u0940 \u092e\u0947\u0902 \u0928\u092e\u0938\u094d\u0924\u0947",
    "\U0001f680 (normal) \U0001f636\u200d\U0001f32b\ufe0f \u2705 \U0001f999\U0001f999 "
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1eb\U0001f1f7 "
    "\U0001f44d\U0001f3fd",
    "e\u0301 a\u0323\u0302 n\u0303 \u1100\u1161\u11a8 C\u031b\u0309 Vi\u1ec7t Vie\u0323\u0302t"
    " \u0344", "\u0301\u0301 \u0301a",
    "zero\u200bwidth\u200cnon\u200djoin\ufeffbom \u00a0nbsp\u3000ideographic\u2028line\u2029pa"
    "ra\u0085nel\u180evowel\u1680ogham",
    "nul\x00inside \x01\x02\x1b[0m\x7f \x1c\x1d\x1e\x1f x", "\ue000\uf8ff private \U000f0000"
    "\U0010fffd", "\ufffd\ufffe\uffff\U0001ffff",
    "def f(x):\n    return x ** 2  # comment\n\n\tif a != b and c <= d:\n\t\tprint(f\"{x!r}\")"
    "\r\n",
    "https://example.com/a/b?c=d&e=%20f#g user@host.org C:\\path\\file.txt /usr/lib//x",
    "{\"key\": [1, 2.5, null], \"s\": \"\\u00e9\\n\"}", "------======= ''''''```````\"\"\"\".."
    "....!!!!!!??????~~~~^^^^||||$$$$",
    "$+<=>^~|` \u00a9\u00ae\u2122\u20ac\u00a3\u00a5 \u00ac\u00b1\u00d7\u00f7 \u2190\u2191"
    "\u2192 \u221e\u2211\u222b \u00ab\u00bb \u201c\u201d \u2026 \u2013\u2014",
    "a" * 300, "ab" * 150, "A" * 200 + "b", " " * 200 + "x", "\n" * 100, "1" * 100, ""
    "\U0001f999" * 50, "=" * 90,
    "\u2581already marked \u2581\u2581", "<0x41> <unk> <s> </s> <|im_end|> literal",
    "The quick brown fox jumps over the lazy dog. The five boxing wizards jump quickly.",
]

WHITE = " \t\n\r\x0b\x0c\u0085\u00a0\u1680\u180e\u2003\u200b\u2028\u2029\u202f\u205f\u3000\x1c"
LETTERS = (
           "abcdeghilmnorstuvABCDILMSTVE\u00df\u00e9\u00d1\u017f\u212a\u0131\u01c5\u02b0\u03a9"
           "\u0394\u0436\u0429\u05d0\u0645\u0939"
           "\u4e2d\u6587\u3042\u30a2\ud55c\u0e01\u1780\ufb01\uff21\U00010400\U00010428\u0294"
           "\u00aa\u00ba\u00b5")
MARKS = "\u0301\u0308\u0323\u0338\u093f\u094d\u17b6\u20dd\ufe0f\u200d"
DIGITS = "0123456789\u0663\u0967\u2167\u00bd\u00b2\u2460\uff13"
SIGNS = (
           ".,;:!?'\"`()[]{}<>=+-*/\\|~^$%&@#_\u2026\u3002\uff0c\u2014\u201c\u2019\u00ab\u20ac"
           "\u00a9\u2192\u221e\u00a1\u00bf\u060c")
OTHERS = "\U0001f600\U0001f468\U0001f3fd\U0001f1eb\x00\x01\x7f\ue000\U0010fffd\u2581\ufeff\u0378"
WORDS = ["'s", "'S", "'ll", "'LL", "'Ve", "'re", "the", "and", "Hello", " world", "\r\n",
         "  ", "\n\n", "\u4e16\u754c",
         "123", "ing", "tion", "HTTP"]


def random_texts(count, seed):
    """`count` strings of up to 40 pieces; characters come in runs, as in text."""
    source = random.Random(seed)
    classes = [WHITE, LETTERS, LETTERS, MARKS, DIGITS, SIGNS, OTHERS]
    texts = []
    for _ in range(count):
        pieces = []
        for _ in range(source.randint(1, 14)):
            if source.random() < 0.25:
                pieces.append(source.choice(WORDS))
                continue
            chosen = source.choice(classes)
            run = source.choice([1, 1, 1, 2, 3, 5])
            if source.random() < 0.2:
                pieces.append(source.choice(chosen) * run)
            else:
                pieces.extend(source.choice(chosen) for _ in range(run))
        texts.append("".join(pieces))
    return texts


def training_texts():
    """What the tests' own vocabularies are trained on: enough for merges of every kind."""
    source = random.Random(1)
    words = [word for text in CORPUS for word in text.replace("\n", " \n").split(" ")
             if len(word) < 40]
    texts = list(CORPUS)
    for _ in range(400):
        texts.append(" ".join(source.choice(words) for _ in range(source.randint(3, 12))))
    return texts + random_texts(400, 2)
