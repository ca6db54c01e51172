"""A merged model as something that MLflow loads, and the questions it has to answer."""
