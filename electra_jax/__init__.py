"""Pre-training of text encoders by replaced token detection."""

from data_pipelines.standard_streams import open_closed_streams

open_closed_streams()  # here, before any other module opens a file
