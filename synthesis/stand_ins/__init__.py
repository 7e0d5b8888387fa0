"""Stand-ins for models, made from the painted world, so that all pipelines run on a CPU without a download.

    grammar      writes quadruples, prompts and captions       for language and vision-language models
    diptychs     paints pairs of people side by side           for a diffusion pipeline with its adapter
    portraits    paints single people, and the same elsewhere  for diffusion pipelines that paint and that edit
    figures      finds people and cuts them out                for a detector and a pose model
    onlooker     judges pairs                                  for a vision-language model

A recipe chooses each by its kind, as it does models. The painters mix in faults at a known rate, so that filters can be
measured.
"""
