"""Pairs of questions that look alike and must not share an answer: ten kinds, made of frames and words."""

from collections.abc import Iterator

FRAMES = (
    "How do I {} on my account?",
    "What happens if I {} in the settings?",
    "Can the administrator {} for all users?",
    "please {} for me",
)
OPPOSITES = (
    ("enable two-factor login", "disable two-factor login"),
    ("turn on notifications", "turn off notifications"),
    ("increase the limit", "decrease the limit"),
    ("lock the card", "unlock the card"),
    ("add a payee", "remove a payee"),
    ("install the update", "uninstall the update"),
    ("encrypt the backup", "decrypt the backup"),
    ("subscribe to the newsletter", "unsubscribe from the newsletter"),
    ("allow cookies", "block cookies"),
    ("upload the report", "download the report"),
    ("open the account", "close the account"),
    ("buy shares", "sell shares"),
    ("show the archive", "hide the archive"),
)
UNLISTED_EXCHANGES = (
    ("feed the hamster", "wash the hamster"),
    ("roast the almonds", "soak the almonds"),
    ("rent the garage", "paint the garage"),
    ("frobnicate the widget", "defrobnicate the widget"),
    ("charge the scooter", "scrap the scooter"),
)
NUMBERS = (
    ("How do I boil an egg for {} minutes?", ("3", "7", "12", "eight")),
    ("Which are the top {} restaurants in town?", ("5", "10", "twenty")),
    ("What is {}% of 260?", ("15", "50", "1.5")),
    ("convert {} kilometers to miles", ("4", "40", "4,000")),
    ("Is {} a prime number?", ("97", "-97", "91")),
    ("How was the economy of the country in {}?", ("1998", "2008", "2018")),
)
NEGATIONS = (
    ("Why does the printer work?", "Why doesn't the printer work?"),
    ("Which foods contain gluten?", "Which foods do not contain gluten?"),
    ("Is it true that plants need light?", "Is it true that plants never need light?"),
    ("How can I sleep with noise outside?", "How can I sleep without noise outside?"),
    ("Who can apply for the grant?", "Who cannot apply for the grant?"),
    ("I can log in to the portal", "I can't log in to the portal"),
    ("Are the results valid?", "Are the results invalid?"),
    ("Is it legal to park here?", "Is it illegal to park here?"),
    ("Is the file readable?", "Is the file unreadable?"),
    ("When should I use a comma?", "When should I not use a comma?"),
)
ENTITIES = (
    ("What is the capital of {}?", ("France", "Germany", "Kiribati", "Bhutan")),
    ("Who is the founder of {}?", ("Microsoft", "Tesla", "Wikipedia")),
    ("flights from boston to {} please", ("paris", "rome", "lima")),
    ("What is the weather in {} in {}?", (("London", "May"), ("London", "June"), ("Madrid", "May"))),
    ("How do you say hello in {}?", ("french", "spanish", "welsh")),
    ("What does {} think of the new law?", ("Merkel", "Macron", "Mrs. Okonkwo")),
)
CODE = (
    ("What does {} return in this module?", ("parse_args()", "parse_known_args()", "load_config()")),
    ("How do I use `{}` in pandas?", ("df.merge", "df.join", "df.concat")),
    ("Explain the flag {} of grep", ("-r", "-v", "--color")),
    ("Why is a {} b false here?", ("==", "!=", "<=")),
    ("Where is {} defined?", ("userName", "userId", "MAX_RETRIES")),
    ("When is {} called?", ("onMount", "onUnmount", "os.path.join")),
)
ROLES = (
    ("convert USD to EUR", "convert EUR to USD"),
    ("Is Python faster than Java?", "Is Java faster than Python?"),
    ("Does stress cause insomnia?", "Does insomnia cause stress?"),
    ("Can a dog chase a bear?", "Can a bear chase a dog?"),
    ("trains from Hamburg to Vienna", "trains from Vienna to Hamburg"),
    ("How do I translate English into Dutch?", "How do I translate Dutch into English?"),
    ("Why did Rome attack Carthage?", "Why did Carthage attack Rome?"),
    ("Does the parent inherit from the child?", "Does the child inherit from the parent?"),
)
TIMES = (
    ("Is the shop open on {}?", ("Monday", "sunday", "weekends")),
    ("What should I eat in the {}?", ("morning", "evening", "afternoon")),
    ("How much rain falls in {}?", ("January", "July", "spring")),
    ("send me a {} summary", ("daily", "weekly", "monthly")),
    ("What did the team do {}?", ("yesterday", "last week", "in the first week")),
)
COMPARISONS = (
    ("What is the {} planet?", ("largest", "smallest", "hottest", "coldest")),
    ("Which phone has the {} camera?", ("best", "worst", "newest", "oldest")),
    ("List the {} cities of the country", ("richest", "poorest")),
    ("Is it {} to rent than to buy?", ("cheaper", "more expensive", "safer")),
    ("sort the list in {} order", ("ascending", "descending", "random")),
)
LANGUAGES = (
    ("en", "What is a tide?", "de", "Was ist eine Tide?"),
    ("en", "no pain no gain", "es", "no pain no gain"),
    ("fr", "Qui a invente le telephone ?", "en", "Who invented the telephone?"),
)


def pairs() -> Iterator[tuple[str, str, str]]:
    """Kind, one question, and the other."""
    for kind, words in (("opposites", OPPOSITES), ("unlisted exchanges", UNLISTED_EXCHANGES)):
        for one, other in words:
            yield from ((kind, frame.format(one), frame.format(other)) for frame in FRAMES)
    for kind, exchanged in (
        ("numbers", NUMBERS),
        ("entities", ENTITIES),
        ("code", CODE),
        ("times", TIMES),
        ("comparisons", COMPARISONS),
    ):
        for frame, fillings in exchanged:
            texts = [frame.format(*([word] if isinstance(word, str) else word)) for word in fillings]
            yield from ((kind, one, other) for one in texts for other in texts if one < other)
    for kind, plain in (("negations", NEGATIONS), ("roles", ROLES)):
        yield from ((kind, one, other) for one, other in plain)
        yield from ((kind, other, one) for one, other in plain)
