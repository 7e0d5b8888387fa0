"""What stands in for models, so that all pipelines run on a CPU without a download: the painted world speaks and sees.

    grammar     writes quadruples, for a language model       diptychs    paints pairs of people, for a painter of pairs
    onlooker    judges pairs, for a vision-language model     portraits   paints single people, for a diffusion pipeline

Each is chosen in a recipe by its kind, as the models are. The painters mix in faults at a known rate, by which a
filter can be measured.
"""
