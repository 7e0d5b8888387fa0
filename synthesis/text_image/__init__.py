"""What makes text-image data sets of people: pictures with captions, several pictures per person.

The stages of `pipeline`, and what each is made of:

    prompts/    `prompts`: templates, templates that a language model writes out, or the small world's wardrobe
    pictures/   any image model; every picture shows a person of its own. `portraits` paints the small world's
    poses/      `poses`: keeps pictures of one person seen from head to knees, and cuts that person out
    edits/      `editing`: the same person somewhere else, by an image model that follows instructions
    edit_poses/ the pose filter again
    captions/   `captioning`: by a vision-language model, freely or along a template, or by the small world's grammar
    SynTBPR/    `assembly`: what `load_dataset("SynTBPR")` reads

"""
