"""The lexicon of the translation task, written for this project: English, German, French and Chinese.

Every entry is a word that a child knows, with its grammar:

- German nouns: gender (m, f, n), the word, its accusative and dative if the noun is weak ("den Jungen"), its plural.
- French nouns: gender (m, f), the word and its plural; the article is elided before a vowel or a mute h (`ELIDED`).
- Chinese nouns: the measure word and the word, which has no plural.
"""

from __future__ import annotations

from typing import NamedTuple


class Noun(NamedTuple):
    """A noun in four languages.

    Attributes:
        english: The English word.
        german_gender: "m", "f" or "n".
        german: The nominative.
        german_oblique: The accusative and dative, which differ from the nominative for weak nouns.
        french_gender: "m" or "f".
        french: The French word.
        measure: The Chinese measure word.
        chinese: The Chinese word.
        plurals: The plurals in English, German (accusative) and French; empty texts if it is not counted.
    """

    english: str
    german_gender: str
    german: str
    german_oblique: str
    french_gender: str
    french: str
    measure: str
    chinese: str
    plurals: tuple[str, str, str]


class Adjective(NamedTuple):
    """An adjective in four languages.

    Attributes:
        english: The English word.
        german: The stem, without an ending.
        french: Masculine and feminine.
        before: True if it comes before a French noun.
        chinese: The Chinese word, with its particle if it needs one.
    """

    english: str
    german: str
    french: tuple[str, str]
    before: bool
    chinese: str


class Verb(NamedTuple):
    """A verb in the third person singular, with its negation.

    Attributes:
        english: "sees".
        base: "see".
        german: "sieht".
        french: "voit".
        chinese: The Chinese word.
        chinese_not: The Chinese word with its negation, which depends on the verb.
    """

    english: str
    base: str
    german: str
    french: str
    chinese: str
    chinese_not: str


def _noun(english: str, german: str, french: str, chinese: str, plurals: str = "", oblique: str | None = None) -> Noun:
    """Makes a noun of its forms, which are separated by spaces."""
    in_english, in_german, in_french = plurals.split() if plurals else ("", "", "")
    gender, word = german.split()
    french_gender, french_word = french.split()
    measure, chinese_word = chinese.split()
    several = (in_english, in_german, in_french)
    return Noun(english, gender, word, oblique or word, french_gender, french_word, measure, chinese_word, several)


BEINGS = (
    _noun("dog", "m Hund", "m chien", "只 狗", "dogs Hunde chiens"),
    _noun("cat", "f Katze", "m chat", "只 猫", "cats Katzen chats"),
    _noun("bird", "m Vogel", "m oiseau", "只 鸟", "birds Vögel oiseaux"),
    _noun("horse", "n Pferd", "m cheval", "匹 马", "horses Pferde chevaux"),
    _noun("mouse", "f Maus", "f souris", "只 老鼠", "mice Mäuse souris"),
    _noun("cow", "f Kuh", "f vache", "头 牛", "cows Kühe vaches"),
    _noun("rabbit", "n Kaninchen", "m lapin", "只 兔子", "rabbits Kaninchen lapins"),
    _noun("bear", "m Bär", "m ours", "头 熊", "bears Bären ours", "Bären"),
    _noun("boy", "m Junge", "m garçon", "个 男孩", "boys Jungen garçons", "Jungen"),
    _noun("girl", "n Mädchen", "f fille", "个 女孩", "girls Mädchen filles"),
    _noun("man", "m Mann", "m homme", "个 男人", "men Männer hommes"),
    _noun("woman", "f Frau", "f femme", "个 女人", "women Frauen femmes"),
    _noun("child", "n Kind", "m enfant", "个 孩子", "children Kinder enfants"),
    _noun("teacher", "m Lehrer", "m professeur", "个 老师", "teachers Lehrer professeurs"),
    _noun("farmer", "m Bauer", "m fermier", "个 农民", "farmers Bauern fermiers", "Bauern"),
    _noun("friend", "m Freund", "m ami", "个 朋友", "friends Freunde amis"),
)
"""Subjects and objects."""


THINGS = (
    _noun("book", "n Buch", "m livre", "本 书", "books Bücher livres"),
    _noun("ball", "m Ball", "m ballon", "个 球", "balls Bälle ballons"),
    _noun("flower", "f Blume", "f fleur", "朵 花", "flowers Blumen fleurs"),
    _noun("apple", "m Apfel", "f pomme", "个 苹果", "apples Äpfel pommes"),
    _noun("letter", "m Brief", "f lettre", "封 信", "letters Briefe lettres"),
    _noun("hat", "m Hut", "m chapeau", "顶 帽子", "hats Hüte chapeaux"),
    _noun("key", "m Schlüssel", "f clé", "把 钥匙", "keys Schlüssel clés"),
    _noun("picture", "n Bild", "f image", "张 图片", "pictures Bilder images"),
    _noun("bread", "n Brot", "m pain", "个 面包"),
    _noun("boat", "n Boot", "m bateau", "条 船", "boats Boote bateaux"),
    _noun("lamp", "f Lampe", "f lampe", "盏 灯", "lamps Lampen lampes"),
    _noun("cup", "f Tasse", "f tasse", "个 杯子", "cups Tassen tasses"),
)
"""Objects only."""


PLACES = (
    _noun("garden", "m Garten", "m jardin", "个 花园"),
    _noun("house", "n Haus", "f maison", "座 房子"),
    _noun("school", "f Schule", "f école", "所 学校"),
    _noun("forest", "m Wald", "f forêt", "片 森林"),
    _noun("kitchen", "f Küche", "f cuisine", "个 厨房"),
    _noun("city", "f Stadt", "f ville", "座 城市"),
    _noun("park", "m Park", "m parc", "个 公园"),
    _noun("village", "n Dorf", "m village", "个 村庄"),
)
"""Places."""


ADJECTIVES = (
    Adjective("big", "groß", ("grand", "grande"), True, "大"),
    Adjective("small", "klein", ("petit", "petite"), True, "小"),
    Adjective("good", "gut", ("bon", "bonne"), True, "好"),
    Adjective("young", "jung", ("jeune", "jeune"), True, "年轻的"),
    Adjective("red", "rot", ("rouge", "rouge"), False, "红色的"),
    Adjective("black", "schwarz", ("noir", "noire"), False, "黑色的"),
    Adjective("white", "weiß", ("blanc", "blanche"), False, "白色的"),
    Adjective("quiet", "still", ("calme", "calme"), False, "安静的"),
    Adjective("heavy", "schwer", ("lourd", "lourde"), False, "重的"),
    Adjective("strange", "seltsam", ("étrange", "étrange"), False, "奇怪的"),
)


VERBS = (
    Verb("sees", "see", "sieht", "voit", "看见", "没看见"),
    Verb("likes", "like", "mag", "aime", "喜欢", "不喜欢"),
    Verb("looks for", "look for", "sucht", "cherche", "寻找", "不寻找"),
    Verb("finds", "find", "findet", "trouve", "找到", "没找到"),
    Verb("knows", "know", "kennt", "connaît", "认识", "不认识"),
    Verb("carries", "carry", "trägt", "porte", "带着", "没带着"),
    Verb("draws", "draw", "zeichnet", "dessine", "画", "不画"),
    Verb("watches", "watch", "beobachtet", "regarde", "观察", "不观察"),
    Verb("follows", "follow", "verfolgt", "suit", "跟着", "没跟着"),
    Verb("touches", "touch", "berührt", "touche", "触摸", "不触摸"),
)


ELIDED = frozenset("aeiouyéèêh")
"""The first letters before which a French article or "ne" is elided. Every h of this lexicon is mute."""
