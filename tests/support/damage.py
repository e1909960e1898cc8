"""Damage to the checkpoints of a run."""


def largest_file(run, step):
    """The file of a checkpoint that holds most of its values."""
    files = (path for path in (run / "checkpoints" / str(step)).rglob("*") if path.is_file())
    return max(files, key=lambda path: path.stat().st_size)


def flip_bit(path, position=None, bit=0):
    """Flip one bit of a file, by default in its middle; twice is as never."""
    position = path.stat().st_size // 2 if position is None else position
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ (1 << bit)]))
