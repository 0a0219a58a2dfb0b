"""The language of a prompt: right for sentences of many scripts, silent where there is nothing to tell."""

import pytest

from deployments.encoder.language import LANGUAGES, TEXT_BYTES_READ, UNKNOWN, LanguageDetector


@pytest.fixture(scope="module")
def detector():
    return LanguageDetector()


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Why are there two tides a day in most places?", "en"),
        ("Warum gibt es an den meisten Orten zwei Fluten am Tag?", "de"),
        ("Pourquoi y a-t-il deux marées par jour ?", "fr"),
        ("¿Por qué hay dos mareas al día en casi todas partes?", "es"),
        ("Por que há duas marés por dia na maioria dos lugares?", "pt"),
        ("Почему в большинстве мест два прилива в день?", "ru"),
        ("Чому в більшості місць два припливи на день?", "uk"),
        ("لماذا يوجد مدان في اليوم في معظم الأماكن؟", "ar"),
        ("ज़्यादातर जगहों पर दिन में दो बार ज्वार क्यों आता है?", "hi"),
        ("为什么大多数地方一天有两次涨潮。", "zh"),
        ("なぜほとんどの場所で一日に二回満潮があるのですか。", "ja"),
        ("왜 대부분의 지역에서 하루에 두 번 밀물이 들어옵니까?", "ko"),
        ("Γιατί υπάρχουν δύο παλίρροιες την ημέρα;", "el"),
    ],
)
def test_tells_the_language_of_a_sentence(detector, text, language):
    assert detector.language_of(text) == language


@pytest.mark.parametrize(
    "text", ["", "   ", "x", "2+2=?", "😀😀", "def f(x):\n    return x + 1", '{"a": [1, 2, 3]}']
)
def test_says_nothing_where_nothing_can_be_told(detector, text):
    assert detector.language_of(text) == UNKNOWN


def test_answers_are_of_a_closed_set(detector):
    texts = [bytes(range(start, start + 60)).decode("latin-1") for start in range(32, 190, 7)]
    assert {detector.language_of(text) for text in texts} <= {*LANGUAGES, UNKNOWN}


def test_reads_the_beginning_only(detector):
    german = "Warum gibt es an den meisten Orten zwei Fluten am Tag? " * 5
    assert len(german) > TEXT_BYTES_READ
    assert detector.language_of(german + "Why are there two tides? " * 40_000) == "de"


def test_a_character_cut_in_the_middle_does_no_harm(detector):
    for shift in range(4):
        assert detector.language_of("x" * shift + "潮の満ち引き" * 100) == "ja"
