"""Networks: what a task composes of backbone, decoder, classifier and heads."""
