"""Text in, batches out."""

from data_pipelines.standard_streams import open_closed_streams

open_closed_streams()  # here, before any other module opens a file
