"""English prose that every Python carries, and German sentences: what small corpora are made of."""

import pydoc_data.topics
import random
import re

GERMAN = (
    "Der Fluss war nach dem langen Regen über die Ufer getreten und hatte die Wiesen überschwemmt.",
    "Am nächsten Morgen gingen die Kinder mit ihren Eltern durch den Wald zum alten Turm.",
    "Niemand wusste genau, wann das Haus gebaut worden war und wer zuerst darin gewohnt hatte.",
    "Die Bäckerei in der kleinen Straße öffnet jeden Tag um sechs Uhr und schließt am Mittag.",
    "Viele Menschen lesen heute lieber auf einem Bildschirm als in einem gedruckten Buch.",
    "Im Winter sind die Tage kurz, und abends sitzt man gern mit Freunden am warmen Ofen.",
    "Die Forscher haben ihre Ergebnisse noch einmal geprüft, bevor sie den Bericht schrieben.",
    "Wer früh genug kommt, findet auf dem Markt frisches Gemüse und Käse aus der Gegend.",
    "Der Zug hatte eine halbe Stunde Verspätung, weil ein Baum auf den Gleisen lag.",
    "Sie hat ihm versprochen, das Fahrrad bis zum Ende der Woche wieder zurückzubringen.",
)


def english_sentences():
    """Different sentences of Python's own help, in a fixed order."""
    text = "\n\n".join(topic for _, topic in sorted(pydoc_data.topics.topics.items()))
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    found = (sentence for part in paragraphs for sentence in re.split(r"(?<=[.?!]) ", part))
    is_plain = re.compile(r"[A-Z][\w ,;:'()`./-]{50,300}\.").fullmatch
    return list(dict.fromkeys(filter(is_plain, found)))


def english_documents(count, seed=0, size=9):
    """Documents of `size` sentences in lines of three; no sentence is in two."""
    sentences = english_sentences()
    random.Random(seed).shuffle(sentences)
    if count * size > len(sentences):
        raise ValueError(f"got {count} documents of {size}, expected at most {len(sentences) // size}")
    parts = [sentences[size * at : size * (at + 1)] for at in range(count)]
    return ["\n".join(" ".join(part[at : at + 3]) for at in range(0, size, 3)) for part in parts]


def german_documents(count, seed=0):
    """Documents of six German sentences."""
    rng = random.Random(seed)
    return [" ".join(rng.sample(GERMAN, 6)) for _ in range(count)]
