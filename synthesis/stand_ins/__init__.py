"""What stands in for models, so that all pipelines run on a CPU without a download: the painted world speaks and sees.

    grammar      writes quadruples, prompts and captions       for language and vision-language models
    diptychs     paints pairs of people side by side           for a diffusion pipeline with its adapter
    portraits    paints single people, and the same elsewhere  for diffusion pipelines that paint and that edit
    figures      finds people and cuts them out                for a detector and a pose model
    onlooker     judges pairs                                  for a vision-language model

Each is chosen in a recipe by its kind, as the models are. The painters mix in faults at a known rate, by which a
filter can be measured.
"""
