"""How labels are written, from examples to token ids.

    task type            label of an example                   label of its token ids
    classification       index into TaskData.labels            the same
    regression           a number                              the same
    tagging              TaggedExample.tags: one index per     int32 [n], one index per token; NO_TAG for
                         word, into TaskData.labels            tokens that do not begin a word
    question_answering   Question.start and Question.answer    int32 [3]: positions of the answer's first
                                                               and last token, and whether the question is
                                                               impossible (1 or 0)
    embedding            EmbeddingExample.label, a number for  none: texts are rows of their own
                         the similarity of two texts

TextExample, TaggedExample, Question and EmbeddingExample are examples; EncodedExample, Window and TextRow
(electra_jax/finetuning/contrastive.py) hold token ids. The positions
of an answer are 0 and 0 if the question is impossible or the answer is not completely inside the window.

An example without a label has None, in tagging UNKNOWN for every word. In a split with tags a single word may
have UNKNOWN, which is neither trained on nor scored. A window also has None if its question is possible but
has no answer token: there is nothing to learn from it.
"""

TASK_TYPES = ("classification", "regression", "tagging", "question_answering", "embedding")
NO_TAG = -1  # of a token that does not begin a word
UNKNOWN = -2  # of a word without a tag, and of every word in a split without tags
