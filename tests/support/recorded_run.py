"""`python -m support.recorded_run FILE FLAGS…`: electra_jax.pretrain, which also writes to FILE the parts of
its batches that this process holds.

It writes a line {"split", "number", "start", "ids"} for each shard; "number" is the step, or the index of the
batch in an evaluation.
"""

import json
import runpy
import sys


def main(path, *flags):
    """Run the command with `flags`."""
    from data_pipelines import loader

    with open(path, "w", buffering=1, encoding="utf-8") as file:

        def record(split, make_batch):
            def batch_at(self, number):
                batch = make_batch(self, number)
                for shard in batch["input_ids"].addressable_shards:
                    start = shard.index[0].start or 0  # None if one shard is the whole batch
                    line = {"split": split, "number": number, "start": start, "ids": shard.data.tolist()}
                    file.write(json.dumps(line) + "\n")
                return batch

            return batch_at

        loader.Loader.batch_at = record("train", loader.Loader.batch_at)
        loader.EvaluationLoader.batch_at = record("eval", loader.EvaluationLoader.batch_at)
        sys.argv[1:] = flags
        runpy.run_module("electra_jax.pretrain", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
