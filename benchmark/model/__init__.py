"""The recommender that every method shares: SASRec, the loss, and the glue between them."""
