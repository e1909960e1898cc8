"""Settings and files of small downstream tasks, for the tests of their readers."""

import gzip

EMPTY_TASK = {
    "source": "",
    "train": "",
    "validation": "",
    "test": "",
    "validation_fraction": 0.0,
    "text": "",
    "pair": "",
    "label": "",
    "labels": (),
    "language": "",
    "train_language": "en",
}
CONLLU = """# newdoc id = one
# text = It's here. _
1-2\tIt's\t_\t_\t_\t_\t_\t_\t_\t_
1\tIt\tit\tPRON\tPRP\t_\t3\tnsubj\t_\t_
2\t's\tbe\tAUX\tVBZ\t_\t3\tcop\t_\t_
3\there\there\tADV\tRB\t_\t0\troot\t_\t_
3.1\tnow\tnow\tADV\tRB\t_\t_\t_\t_\t_
4\t_\t_\tPUNCT\t.\t_\t3\tpunct\t_\t_

# a comment alone

1\tGo\tgo\tVERB\tVB\tMood=Imp\t0\troot\t_\t_
"""
COLUMNS = """-DOCSTART- -X- O

# id 1 of 2
EU NNP B-ORG
# SYM O
\u3000 NN O

# SYM O
Peter NNP B-PER
"""


def classification(**changes):
    return EMPTY_TASK | {"kind": "classification"} | changes


def tagging(**changes):
    return EMPTY_TASK | {"kind": "tagging"} | changes


def write(path, text):
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)
