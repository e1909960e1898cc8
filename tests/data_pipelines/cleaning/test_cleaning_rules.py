"""Each filter of single documents does what its source says, on texts whose values are counted by hand."""

import json
import time

import numpy as np
import pytest

from data_pipelines.cleaning import masking, rules
from data_pipelines.cleaning.cleaner import CONTAMINATION, Cleaner
from data_pipelines.cleaning.contamination import Index, write_index
from data_pipelines.cleaning.languages import identify
from data_pipelines.cleaning.settings import CleaningSettings
from data_pipelines.cleaning.text_view import TextView
from data_pipelines.cleaning.unicode_repair import normalize, repair
from data_pipelines.cleaning.words import ngram_numbers, word_numbers, words_of
from data_pipelines.document_formats import RECORDS_WITHOUT_FIELD
from support.dirty_corpus import write_texts
from support.plain_texts import english_documents, german_documents

ROSE = "a rose is a rose is a rose"  # 8 words of 1, 4 and 2 characters: 19 in all

# (rule, text, its value)
VALUES = [
    ("gopher_min_words", "one two  three\nfour", 4),
    ("gopher_min_mean_word_length", "a bcd efghi", 3),
    ("gopher_max_hashes", "# a b #c d", 2 / 5),
    ("gopher_max_ellipses", "and so on ... and on … x", 2 / 8),
    ("gopher_max_bullet_lines", "- a\n\n• b\nc\n  - d", 3 / 4),
    ("gopher_max_ellipsis_lines", "a...\nb…  \nc", 2 / 3),
    ("gopher_min_alphabetic_words", "a 1 b2 33 --", 2 / 5),
    ("gopher_min_stop_words", "The cat and THE dog", 2),
    ("gopher_max_duplicate_lines", "a\nb\na\na\n\nc", 2 / 5),
    ("gopher_max_duplicate_line_chars", "aaa\nb\naaa\n", 3 / 7),
    ("gopher_max_duplicate_paragraphs", "a\nb\n\nc\n\na\nb", 1 / 3),
    ("gopher_max_duplicate_paragraph_chars", "abc\n\nd\n\nabc\n\nabc", 6 / 10),
    ("gopher_max_top_2gram_chars", ROSE, 15 / 19),  # "a rose", three times
    ("gopher_max_top_3gram_chars", ROSE, 14 / 19),  # "a rose is" and "rose is a", both twice
    ("gopher_max_top_4gram_chars", ROSE, 22 / 19),  # "rose is a rose" twice: a word is counted twice
    ("gopher_max_duplicate_5gram_chars", ROSE, 1),  # "a rose is a rose" at the start and the end
    ("gopher_max_duplicate_6gram_chars", ROSE, 0),
    ("gopher_max_duplicate_5gram_chars", "1 2 3 4 5 x 1 2 3 4 5 yyyyyyyyy", 10 / 20),
    ("c4_max_curly_brackets", "a {b} {", 2),
    ("c4_max_lorem_ipsum", "Lorem Ipsum dolor", 1),
    ("c4_min_sentences", "One. Two! e.g. this is 3.5 (three?) and “four.”", 5),
]


@pytest.mark.parametrize(("name", "text", "value"), VALUES, ids=lambda value: str(value)[:40])
def test_a_rule_measures_what_its_source_says(name, text, value):
    assert rules.RULES[name].measure(TextView(text)) == pytest.approx(value)


def test_a_text_in_another_language_needs_no_english_stop_words():
    measure = rules.RULES["gopher_min_stop_words"].measure
    assert measure(TextView("und der", "de")) == float("inf")
    assert measure(TextView("und der", "en")) == 0


def test_sentences_are_counted_in_linear_time():
    began = time.process_time()
    assert rules.sentences("." * 100_000 + "x Yes.") == 1
    assert time.process_time() - began < 5  # without care, minutes


def test_every_rule_drops_only_beyond_its_bound():
    for name, text, value in VALUES:
        rule = {name: rules.RULES[name]}
        beyond = value * 1.01 + 1e-6 if "min" in name else value * 0.99 - 1e-6
        within = value * 0.99 if "min" in name else value * 1.01
        assert rules.broken_rule(TextView(text), rule, {name: beyond})[0] == name
        assert rules.broken_rule(TextView(text), rule, {name: within})[0] == ""
        assert rules.broken_rule(TextView(text), rule, {})[0] == ""


def test_ordinary_prose_breaks_no_rule():
    bounds = {name: rule.bound for name, rule in rules.RULES.items()}
    texts = english_documents(40)
    assert [rules.broken_rule(TextView(text), rules.DOCUMENT_RULES, bounds) for text in texts] == [
        ("", 0)
    ] * 40


def test_lines_are_removed_as_c4_does():
    bounds = {name: rule.bound for name, rule in rules.LINE_RULES.items()}
    lines = {
        "This line ends as a sentence does.[12]": "",
        "Home | About | Contact us and others": "c4_line_min_end_marks",
        "It trails off after some words...": "c4_line_min_end_marks",
        "Only four words here.": "c4_line_min_words",
        "Please enable Javascript to see this page.": "c4_line_max_javascript",
        "By reading on you accept our Privacy Policy.": "c4_line_max_policies",
        f"A very long {'w' * 1001} is in this line.": "c4_line_max_word_length",
        "“She said that it was over.”": "",
    }
    text, removed = rules.remove_lines("\n".join(lines), bounds)
    assert text == "This line ends as a sentence does.\n“She said that it was over.”"
    assert [name for name, _, _ in removed] == [name for name in lines.values() if name]
    assert [line for _, _, line in removed] == [line for line, name in lines.items() if name]


def test_languages_are_told_apart():
    texts = [*english_documents(15), *german_documents(15)]
    assert [identify(text)[0] for text in texts] == ["en"] * 15 + ["de"] * 15
    # Of a long text parts are looked at, not only its start.
    code, probability = identify(english_documents(1)[0] * 2 + german_documents(1)[0] * 40)
    assert code == "de" and 0 < probability <= 1


@pytest.mark.parametrize(
    ("text", "repaired"),
    [
        ("Das ist schÃ¶n.", "Das ist schön."),
        ("The Mona Lisa doesnâ€™t have eyebrows.", "The Mona Lisa doesn’t have eyebrows."),
        ("salt &amp; pepper", "salt & pepper"),
        ("a\u0000b\u0007c", "abc"),
        ("“right” and schön", "“right” and schön"),
        ("你好，世界！（测试）ｶﾀｶﾅ　Ａ１ ﬁle", "你好，世界！（测试）ｶﾀｶﾅ　Ａ１ ﬁle"),
    ],
    ids=["umlaut", "apostrophe", "entity", "control", "right", "forms"],
)
def test_wrongly_decoded_text_is_repaired(text, repaired):
    assert repair(text) == repaired


def test_normal_forms():
    assert normalize("é ﬁ", "NFC") == "é ﬁ"
    assert normalize("é ﬁ", "NFKC") == "é fi"
    assert normalize("é ﬁ", "none") == "é ﬁ"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("to jo.doe+x@mail.example.org.", "to |||EMAIL_ADDRESS|||."),
        ("not an@address, nor @name or a@b", None),
        (
            "メールはjohn@example.comです, _jörg@example.de",
            "メールは|||EMAIL_ADDRESS|||です, |||EMAIL_ADDRESS|||",
        ),
        ("to john@example.xn--p1ai-", "to |||EMAIL_ADDRESS|||-"),
        (
            "服务器8.8.8.8的 inet:8.8.4.4: 8.8.8.8:80",
            "服务器{}的 inet:{}: {}:80".format(*["|||IP_ADDRESS|||"] * 3),
        ),
        ("from 8.8.8.8 and 2001:4860:4860::8888,", "from |||IP_ADDRESS||| and |||IP_ADDRESS|||,"),
        ("127.0.0.1, 192.168.0.7, 999.1.1.1, 1.2.3, 8.8.8.8.8, 10:30:15, ::1, a::b", None),
        ("call +49 30 901820 or +1 650-253-0000", "call |||PHONE_NUMBER||| or |||PHONE_NUMBER|||"),
        ("in 1998-2004 it had 12345678 rows", None),
    ],
    ids=["email", "no_email", "letters", "punycode", "beside", "ip", "no_ip", "phone", "no_phone"],
)
def test_personal_data_is_masked_and_nothing_else(text, masked):
    result, counts = masking.mask(text, masking.KINDS)
    assert result == (masked or text)
    assert sum(counts.values()) == result.count("|||") // 2


def test_numbers_without_a_prefix_are_found_for_their_country():
    assert masking.mask("call (650) 253-0000", ["phone"])[0] == "call (650) 253-0000"
    assert masking.mask("call (650) 253-0000", ["phone"], ["DE", "US"])[0] == "call |||PHONE_NUMBER|||"
    assert masking.mask("8.8.8.8 a@b.org", ["email"])[0] == "8.8.8.8 |||EMAIL_ADDRESS|||"


def test_a_number_at_the_end_of_a_long_text_is_found():
    masked, counts = masking.mask("1234567 " * 66_000 + "+49 30 901820", ["phone"])
    assert masked.endswith(" |||PHONE_NUMBER|||") and counts == {"phone": 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("हिन्दी की किताब", ["हिन्दी", "की", "किताब"]),
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("العَرَبِيَّة لغة", ["العَرَبِيَّة", "لغة"]),
        ("می‌خواهم x̂y", ["می‌خواهم", "x̂y"]),
        ("東京 I'm in_1 «é»", ["東", "京", "i", "m", "in", "1", "é"]),
    ],
    ids=["hindi", "tamil", "arabic", "joined", "others"],
)
def test_marks_belong_to_their_word(text, words):
    assert words_of(text) == words


def test_the_number_of_sentences_is_a_rule_without_rules_of_lines():
    settings = CleaningSettings(input=("a.jsonl",), rules=(), set=("c4_min_sentences=3",))
    cleaner = Cleaner(settings, None, ())
    assert cleaner.clean("One. Two. Three.").reason == ""
    assert cleaner.clean("One sentence alone.").reason == "c4_min_sentences"


def test_a_whole_short_evaluation_text_is_always_too_much(tmp_path):
    long, short = " ".join(f"word{n}" for n in range(20)), "what is the capital city of the old kingdom"
    source = write_texts(tmp_path / "test.jsonl", [long, short])
    write_index(tmp_path / "index.npz", [source], ["text"], 13, "blank_line")
    settings = CleaningSettings(input=("a.jsonl",), rules=(), min_shared=3)
    cleaner = Cleaner(settings, Index(tmp_path / "index.npz"), ())
    words = long.split()
    assert cleaner.clean(f"He wrote {' '.join(words[:14])} first.").reason == ""
    assert cleaner.clean(f"He wrote {' '.join(words[:15])} first.").reason == CONTAMINATION
    assert cleaner.clean(f"He asked {short} and left.").reason == CONTAMINATION


def test_words_are_compared_without_case_punctuation_and_forms():
    np.testing.assert_array_equal(word_numbers("The ﬁrst, “THING”!"), word_numbers("the first thing"))
    assert len(word_numbers("東京 is big")) == 4  # every character of a script without spaces
    assert len(set(word_numbers("a b c a").tolist())) == 3


@pytest.mark.parametrize(
    "text",
    [
        "the _old_ castle",
        "the __old__ castle",
        "the old cas\u00adtle",
        "the o\u200bld castle",
        "the old\u2060 castle",
        "\ufeffthe old castle",
        "the old_castle",
    ],
    ids=[
        "emphasis",
        "strong",
        "soft_hyphen",
        "zero_width_space",
        "word_joiner",
        "byte_order_mark",
        "between",
    ],
)
def test_emphasis_and_characters_without_width_make_no_difference(text):
    assert words_of(text) == ["the", "old", "castle"]


def test_a_character_without_width_parts_no_letter_from_its_mark():
    assert words_of("cafe\u00ad\u0301") == ["café"]


def test_ngrams_are_equal_where_their_words_are():
    left, right = word_numbers("x the quick brown fox y"), word_numbers("the quick brown fox")
    for n in (1, 2, 4):
        grams = ngram_numbers(left, n)
        np.testing.assert_array_equal(grams[1 : 1 + 5 - n], ngram_numbers(right, n))
        assert len(grams) == 7 - n
    assert len(ngram_numbers(right, 5)) == 0
    assert ngram_numbers(word_numbers("a b"), 2) != ngram_numbers(word_numbers("b a"), 2)


def test_evaluation_text_is_found_from_thirteen_words_on(tmp_path):
    words = [f"word{number}" for number in range(40)]
    short = "A question of only nine words is this one"
    source = write_texts(tmp_path / "test.jsonl", [" ".join(words), short, "Too short to tell"])
    assert write_index(tmp_path / "index.npz", [source], ["text"], 13, "blank_line") == 1
    index = Index(tmp_path / "index.npz")
    shared = lambda text: index.shared(word_numbers(text))
    assert shared(f"before {' '.join(words[5:17])} after") == 0  # twelve
    assert shared(f"before {' '.join(words[5:18])} after") == 1
    assert shared(f"before {' '.join(words[5:20]).upper()} after") == 3
    assert shared(f"He asked: {short}? Nobody knew.") == 1
    assert shared("Too short to tell") == 0
    with pytest.raises(ValueError, match=r"--decontaminate: got .* with 1 texts, expected one of 8 words"):
        write_index(tmp_path / "b.npz", [write_texts(tmp_path / "b.jsonl", ["a b"])], ["text"], 13, "line")


def write_records(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def test_evaluation_files_may_have_different_fields(tmp_path):
    texts = {name: " ".join(f"{name}{n}" for n in range(13)) for name in ("one", "two", "three", "plain")}
    (tmp_path / "plain.txt").write_text(texts["plain"])
    sources = [
        write_records(tmp_path / "squad.jsonl", {"question": texts["one"], "context": texts["two"]}),
        write_records(tmp_path / "boolq.jsonl", {"question": texts["one"], "passage": texts["three"]}),
        str(tmp_path / "plain.txt"),
    ]
    fields = ["question", "context", "passage"]
    assert write_index(tmp_path / "index.npz", sources, fields, 13, "blank_line") == 0
    index = Index(tmp_path / "index.npz")
    assert [index.shared(word_numbers(text)) for text in texts.values()] == [1, 1, 1, 1]


def test_the_fields_of_evaluation_files_have_no_say_over_plain_text(tmp_path):
    """Beside other files a name of a field must be one of theirs; alone, .txt files need none."""
    text = " ".join(f"word{n}" for n in range(13))
    (tmp_path / "plain.txt").write_text(text)
    plain = str(tmp_path / "plain.txt")
    records = write_records(tmp_path / "squad.jsonl", {"question": text, "context": text})
    with pytest.raises(
        ValueError, match=r"--evaluation_fields: got qestion, expected fields of .*squad\.jsonl"
    ):
        write_index(tmp_path / "a.npz", [plain, records], ["qestion", "context"], 13, "blank_line")
    assert write_index(tmp_path / "b.npz", [plain, records], ["context"], 13, "blank_line") == 0
    assert write_index(tmp_path / "c.npz", [plain], ["text"], 13, "blank_line") == 0


def test_evaluation_files_are_read_to_their_end_for_each_field(tmp_path):
    """Of files that were joined the first records may lack a field."""
    texts = {name: " ".join(f"{name}{n}" for n in range(13)) for name in ("question", "sentence")}
    records = [{name: text} for name, text in texts.items() for _ in range(RECORDS_WITHOUT_FIELD + 1)]
    source = write_records(tmp_path / "joined.jsonl", *records)
    assert write_index(tmp_path / "index.npz", [source], list(texts), 13, "blank_line") == 0
    index = Index(tmp_path / "index.npz")
    assert [index.shared(word_numbers(text)) for text in texts.values()] == [1, 1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["context"], "boolq.jsonl:1: no field 'context', found 'question', 'answer'"),
        (["question", "contxt"], "got contxt, expected fields of .*: none has it"),
        (["question", "answer"], "boolq.jsonl:1: field 'answer' is true or false, expected a string"),
    ],
    ids=["none", "misspelled", "no_text"],
)
def test_wrong_evaluation_fields_are_named_with_their_flag(tmp_path, fields, message):
    sources = [
        write_records(tmp_path / "squad.jsonl", {"question": "who", "context": "word " * 13}),
        write_records(tmp_path / "boolq.jsonl", {"question": "is it", "answer": True}),
    ]
    with pytest.raises(ValueError, match=message) as raised:
        write_index(tmp_path / "index.npz", sources, fields, 13, "blank_line")
    assert "--evaluation_fields" in str(raised.value) and "--text_field" not in str(raised.value)
