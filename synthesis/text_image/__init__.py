"""What makes text-image data sets of people: pictures with captions, several pictures per person.

The stages of `pipeline`, and what each is made of:

    prompts/    `prompts`: templates, or templates that a language model writes out
    pictures/   any image model; every picture shows a person of its own
    poses/      `poses`: keeps pictures of one person seen from head to knees, and cuts that person out
    edits/      `editing`: the same person somewhere else, by an image model that follows instructions
    edit_poses/ the pose filter again
    captions/   `captioning`: by a vision-language model, freely or along a template
    SynTBPR/    `assembly`: what `load_dataset("SynTBPR")` reads

What does all this over painted people, without a model, is in `stand_ins/`.
"""
