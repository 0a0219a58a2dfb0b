"""Word lists of the guards: opposites, words whose exchange changes what is asked, and words that say
nothing.

They exist because sentence encoders place opposites close together: of "enable 2FA", "disable 2FA" is
nearer than "turn on 2FA". The lists are short and only save hits or make refusals explainable: what they do
not know is held up by the content guard, which lets no single word be exchanged for another.
"""

OPPOSITES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("enable", "activate", "turn_on", "switch_on", "reactivate"),
     ("disable", "deactivate", "turn_off", "switch_off")),
    (("on",), ("off",)),
    (("increase", "raise", "grow", "maximize", "maximise", "boost", "gain", "expand", "rise", "up"),
     ("decrease", "reduce", "lower", "shrink", "minimize", "minimise", "lose", "cut", "fall", "down")),
    (("maximum", "max", "most", "highest", "largest", "biggest", "longest", "greatest"),
     ("minimum", "min", "least", "lowest", "smallest", "shortest", "fewest")),
    (("best", "better", "good", "right", "correct"), ("worst", "worse", "bad", "wrong", "incorrect")),
    (("more", "greater", "larger", "bigger", "above", "over"),
     ("less", "fewer", "smaller", "below", "under")),
    (("add", "insert", "include", "attach", "append"),
     ("remove", "delete", "exclude", "detach", "drop", "erase")),
    (("create", "build", "construct"), ("destroy", "delete", "demolish")),
    (("ascending", "ascend"), ("descending", "descend")),
    (("open", "reopen"), ("close", "closed", "shut")),
    (("start", "begin", "launch", "resume"), ("stop", "end", "quit", "halt", "pause", "terminate")),
    (("first", "earliest", "oldest"), ("last", "latest", "newest")),
    (("before", "prior", "earlier"), ("after", "later", "following")),
    (("buy", "purchase"), ("sell",)),
    (("borrow",), ("lend", "loan")),
    (("deposit", "pay_in"), ("withdraw", "withdrawal")),
    (("send", "transmit"), ("receive",)),
    (("upload",), ("download",)),
    (("import",), ("export",)),
    (("encrypt", "encode"), ("decrypt", "decode")),
    (("compress", "zip"), ("decompress", "extract", "unzip", "uncompress")),
    (("install",), ("uninstall",)),
    (("lock", "freeze", "block"), ("unlock", "unfreeze", "unblock")),
    (("log_in", "login", "sign_in"), ("log_out", "logout", "sign_out", "log_off")),
    (("subscribe", "opt_in"), ("unsubscribe", "opt_out", "cancel")),
    (("allow", "permit", "grant", "accept", "approve", "authorize"),
     ("deny", "forbid", "revoke", "reject", "refuse", "prohibit", "ban", "decline")),
    (("show", "display", "reveal"), ("hide", "conceal")),
    (("connect", "join", "link"), ("disconnect", "leave", "unlink", "separate")),
    (("true", "yes"), ("false", "no")),
    (("always",), ("never",)),
    (("all", "every", "everyone", "everything"), ("none", "nobody", "nothing")),
    (("with",), ("without",)),
    (("inside", "inner", "internal", "inbound", "incoming"),
     ("outside", "outer", "external", "outbound", "outgoing")),
    (("public",), ("private",)),
    (("legal", "allowed"), ("illegal", "forbidden")),
    (("safe",), ("unsafe", "dangerous", "risky")),
    (("possible",), ("impossible",)),
    (("hot", "warm", "heat"), ("cold", "cool", "chill")),
    (("fast", "faster", "quick", "speed_up"), ("slow", "slower", "slow_down")),
    (("cheap", "cheaper", "cheapest"), ("expensive", "dearest")),
    (("left",), ("right",)),
    (("north", "northern"), ("south", "southern")),
    (("east", "eastern"), ("west", "western")),
    (("male", "man", "men", "boy", "husband"), ("female", "woman", "women", "girl", "wife")),
    (("advantage", "pros", "benefit", "strength"), ("disadvantage", "cons", "drawback", "weakness")),
    (("win", "succeed", "success", "pass"), ("lose", "fail", "failure")),
    (("love",), ("hate", "dislike")),
    (("positive",), ("negative",)),
    (("synchronous", "sync"), ("asynchronous", "async")),
    (("horizontal",), ("vertical",)),
    (("client",), ("server",)),
    (("read",), ("write",)),
    (("push",), ("pull",)),
    (("input",), ("output",)),
    (("arrive", "arrival", "arriving"), ("depart", "departure", "leaving")),
    (("credit",), ("debit",)),
    (("import_tax", "tariff"), ("export_tax",)),
    (("early",), ("late",)),
    (("summer",), ("winter",)),
    (("day", "daytime"), ("night", "nighttime")),
    (("indoor", "indoors"), ("outdoor", "outdoors")),
    (("single", "unmarried"), ("married",)),
    (("mutable",), ("immutable",)),
    (("static",), ("dynamic",)),
    (("forward",), ("backward", "reverse")),
    (("full", "fill"), ("empty",)),
    (("strong", "stronger"), ("weak", "weaker")),
    (("rich",), ("poor",)),
    (("young", "younger", "youngest"), ("old", "older")),
    (("new",), ("old",)),
)  # fmt: skip
"""Both sides of what can be asked for either way. A word may stand on several axes."""

JOINED = (
    ("turn", "on"), ("turn", "off"), ("switch", "on"), ("switch", "off"), ("log", "in"), ("log", "out"),
    ("log", "off"), ("sign", "in"), ("sign", "out"), ("opt", "in"), ("opt", "out"), ("pay", "in"),
    ("speed", "up"), ("slow", "down"),
)  # fmt: skip
"""Verbs whose particle decides what they mean."""

_EXCHANGED = """
january february march april june july august september october november december
jan feb mar apr jun jul aug sep sept oct nov dec
monday tuesday wednesday thursday friday saturday sunday weekday weekend
today tomorrow yesterday tonight now
hourly daily weekly fortnightly monthly quarterly yearly annually annual
second seconds minute minutes hour hours day days week weeks month months year years decade century
morning noon afternoon evening night midnight am pm
red green blue yellow black white orange purple pink brown grey gray
english french german spanish italian portuguese russian chinese mandarin japanese korean arabic
hindi dutch swedish polish turkish greek latin hebrew urdu bengali tamil telugu
python java javascript typescript ruby rust golang go kotlin swift scala perl php haskell matlab sql
bash c++ c# c r
dollar dollars usd euro euros eur pound pounds gbp yen jpy yuan rupee rupees inr franc chf bitcoin
meter meters metre metres kilometer kilometers km mile miles foot feet inch inches cm mm yard yards
gram grams kilogram kilograms kg pound pounds lb lbs ounce ounces oz ton tons tonne
celsius fahrenheit kelvin
liter liters litre litres gallon gallons pint pints cup cups teaspoon
teaspoons tablespoon tablespoons
mother father mom dad brother sister son daughter uncle aunt cousin grandmother grandfather
breakfast lunch dinner supper
spring summer autumn fall winter
king queen prince princess
visa mastercard amex
android iphone ios windows linux macos mac
mercury venus earth mars jupiter saturn uranus neptune pluto
london paris rome berlin madrid tokyo beijing delhi mumbai moscow sydney toronto chicago boston seattle
dallas houston miami denver phoenix vegas dubai singapore bangalore
america usa uk britain england france germany italy spain japan china india russia canada australia
brazil mexico pakistan korea israel egypt turkey iran iraq ireland scotland
dog dogs cat cats horse cow chicken fish bird
adult adults child children kid kids baby babies
savings checking
median mean mode average
sine cosine tangent
row rows column columns
who
when
where
why
only
except
unless
instead
besides
still
already
"""
EXCHANGED = frozenset(_EXCHANGED.split())
"""Words that ask for different things: what one text says of them, the other must say as well."""

SYNONYMS: tuple[tuple[str, ...], ...] = (
    ("enable", "activate", "turn_on", "switch_on"), ("disable", "deactivate", "turn_off", "switch_off"),
    ("delete", "remove", "erase"), ("buy", "purchase"), ("log_in", "sign_in", "login"),
    ("log_out", "sign_out", "logout", "log_off"), ("begin", "start"), ("quick", "fast"), ("film", "movie"),
    ("picture", "photo", "image"), ("big", "large"), ("small", "little"), ("buddy", "friend"),
    ("child", "kid", "children"), ("error", "mistake"), ("fix", "repair"), ("change", "modify"),
    ("freeze", "block"), ("company", "business"), ("difference", "different", "differ"),
)  # fmt: skip
"""Words that may stand for each other, so that the content guard lets them."""

_NEGATORS = """
not no never none neither nor without cannot cant dont doesnt didnt isnt arent wasnt werent wont wouldnt
shouldnt couldnt hasnt havent hadnt mustnt neednt aint hardly barely nobody nothing nowhere lack
"""
NEGATORS = frozenset(_NEGATORS.split())
QUESTION_WORDS = ("why", "who", "when", "where", "how")
"""The first one decides what is asked for; `what` and `which` leave it open."""
RELATORS = frozenset(
    ("to", "from", "than", "into", "over", "by", "before", "after", "onto", "beats", "under")
)
"""What stands behind one of them has a part in the question that another word cannot take."""
NEGATING_PREFIXES = ("un", "in", "im", "ir", "il", "dis", "non", "de", "mis", "anti", "mal", "ab", "re")
"""With `un` before it a word is another one, not another form of it."""

_SMALL_NUMBERS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty
"""
_TENS = "thirty forty fifty sixty seventy eighty ninety hundred"
NUMBER_WORDS: dict[str, float] = {
    **{word: value for value, word in enumerate(_SMALL_NUMBERS.split())},
    **{word: 10 * value for value, word in enumerate(_TENS.split(), start=3)},
    "thousand": 1e3,
    "million": 1e6,
    "billion": 1e9,
    "dozen": 12,
}
"""`one` as a pronoun ("which one") is dropped by the reader."""

_STOPWORDS = """
a an the of to in on at by for from with about as is are was were be been being am do does did doing done
have has had having will would shall should can could may might must i me my mine we us our you your yours
he him his she her hers it its they them their this that these those there here what which how and or but
so if then than too also just please tell explain describe say give want need like know get got let make
help some any much many very really exactly actually ok okay hi hello hey thanks thank someone somebody
anyone people person one ones way ways thing things s t re ve ll d m im ive id whats hows theres into out
up kind sort using use used go going am who when where why
"""
STOPWORDS = frozenset(_STOPWORDS.split())
"""Words that do not make two questions different by themselves; question words are compared as a class."""
