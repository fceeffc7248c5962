"""AdaptRec's harness: data, language models, SASRec, training, measurement, records and reports."""
