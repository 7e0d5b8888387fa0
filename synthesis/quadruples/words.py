"""The words that the checks of English texts know."""

import codecs


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# These show nothing of their own; a run of words between them is a phrase ("red coat").
FUNCTION_WORDS = _set(
    """
    a about above across after again against all along alongside also among an and another any are around as at away
    back be been before behind being below beneath beside besides between both but by can could do does down during
    each else every for from further had has have having here how if in inside instead into is it its itself just
    let lets like more most much near next no nor not now of off on once one ones only onto or other others out
    outside over own part past per place plus rather same she he her hers him his should so some still such than that
    the their them then there these they this those through time to together too toward towards under up upon
    very was were what when where which while who whose will with within without would you your
    """
)
# What edits and captions say is done with things, and where on a body things go.
HANDLING_WORDS = _set(
    """
    add adds added adding appear appears appearing bring brings bringing carries carry carried carrying change changes
    changed changing clad disappear disappears dressed drop drops dropped exchange exchanges feature features
    featuring get gets getting give gives given giving gone goes going hold holds holding held keep keeps keeping
    kept leave leaves leaving left lose loses losing lost make makes made making miss missing need needs pair pairs
    paired pairing place places placed placing pull pulled put puts putting remain remains remaining remove removes
    removed removing replace replaces replaced replacing retain retains retaining see set sets show shows shown
    showing sport sports sporting stay stays style substitute swap swaps swapped swapping switch switches switched
    take takes taken taking trade trades traded trading turn turns turned turning unchanged want wear wears wearing
    wore worn arm arms chest feet foot hand hands head hip hips neck shoulder shoulders waist wrist
    """
)
MEN = _set("man men boy boys he him his male gentleman guy father grandfather son husband lad king")
WOMEN = _set("woman women girl girls she her hers female lady mother grandmother daughter wife lass queen")
PEOPLE = MEN | WOMEN | _set("person people someone somebody pedestrian individual figure subject they")
# What an edit cannot change, since both images show one person.
IDENTITY = _set(
    """
    hair haired hairstyle haircut hairline beard bearded moustache mustache stubble shaven goatee sideburns skin
    skinned complexion freckles freckled wrinkles face faced facial eyes eyed eyebrows ethnicity race racial asian
    african caucasian hispanic latino latina arab elderly aged teenage teenager middle-aged gender taller slimmer
    fatter overweight muscular bald balding blonde brunette redhead
    """
)
NOT_IDENTITY = _set("clip clips band bands tie ties pin pins ribbon ribbons net bow mask scrunchie paint")
# Capitalised words that name neither a person nor a brand.
CAPITALISED = _set(
    """
    I LED TV UV DJ SUV XL American African Aran Argyle Asian Bermuda Bohemian Boho Breton British Celtic Chelsea
    Chinese Christmas Cuban Dutch Easter Edwardian Egyptian English European Fair Isle Fedora French Friday Gothic
    Greek Halloween Hawaiian Henley Indian Irish Italian Jacquard Japanese Korean Lycra Mandarin Mediterranean Mexican
    Monday Moroccan Nehru Nordic Oxford Oxfords Paisley Panama Persian Peruvian Peter Pan Renaissance Roman Russian
    Santa Saturday Scandinavian Scottish Sherpa Spanish Sunday Swiss Thai Tibetan Turkish Tuesday Thursday Tweed
    Tyrolean Velcro Victorian Viking Vietnamese Wednesday Wellington Wellingtons Western January February March April
    May June July August September October November December Ankara Kente Kashmiri Harris Mary Jane Janes Brogue
    Ferris Dalmatian Labrador Alsatian Siamese German Christian Buddhist Muslim Hindu Jewish Polaroid Maine Coon Golden
    Retriever Border Collie Husky Shepherd Bulldog Poodle Beagle Terrier Spaniel Corgi Dachshund Pug Rottweiler
    Chihuahua Pomeranian Bengal Yorkshire
    """
)
# Only those that are no everyday words: a Rose, a Will or a Jade could stand for something else.
FIRST_NAMES = _set(
    """
    Aaron Abdul Adam Ahmed Aisha Alan Albert Alejandro Alex Alexander Alice Alicia Amanda Amelia Amit Amy Andrea Andrew
    Angela Anita Anna Anne Anthony Antonio Ashley Barbara Benjamin Bob Brenda Brian Carlos Carol Caroline Catherine
    Charlotte Chen Chloe Christina Christopher Claire Daniel David Deborah Diana Diego Donna Dorothy Edward Elena
    Elizabeth Ella Emily Emma Eric Ethan Evelyn Fatima Fiona Francesca Gabriel Gary George Hannah Hans Harry Helen
    Henry Hiroshi Ibrahim Isabella Ivan Jacob James Jamie Jasmine Jason Jennifer Jessica Joan Johnny John Jonathan Jorge
    Jose Joseph Joshua Juan Judith Julia Julie Karen Karl Kate Katherine Kelly Kenji Kevin Kim Larry Laura Lauren Leila
    Lena Leo Liam Linda Lisa Logan Louis Lucas Lucy Luis Maria Marie Mario Martha Martin Matthew Maya Mei Melissa Mia
    Michael Michelle Miguel Mohammed Muhammad Nancy Natalie Nathan Nicholas Nicole Noah Oliver Olivia Omar Pablo Pamela
    Patricia Patrick Paul Pedro Philip Priya Rachel Raj Rebecca Richard Robert Ronald Ryan Samantha Samuel Sandra
    Sarah Sean Sharon Sofia Sophia Sophie Stephanie Stephen Steven Susan Tariq Theresa Thomas Timothy Tom Tyler Victoria
    Vincent Walter Wei William Yuki Yusuf Zoe
    """
)
BRANDS = _set(
    """
    abercrombie adidas armani asics balenciaga birkenstock bulgari burberry calvin cartier chanel dior disney
    dolce fendi fila gabbana gucci hermes hilfiger hollister ikea lacoste lego levis lululemon mcdonalds michelin
    moncler nike patagonia pepsi prada reebok rolex samsung skechers starbucks swarovski tesla timberland uniqlo
    versace vuitton walmart zara
    """
)
# Slurs for people, of no use in a description; in ROT13, so that nobody has to read them.
SLURS = _set(
    codecs.decode(
        """
        ornare ovzob ovgpu puvax pbba pevccyr phag qnexvr qlxr snt snttbg tbbx tlcb unysoerrq ubbxre xvxr zbatbybvq
        arteb avttn avttre cnxv cvxrl enturnq erqfxva ergneq ergneqrq furznyr fxnax fyhg fyhggl fcnfgvp fcvp fdhnj
        gubg gbjryurnq genaal jrgonpx juber
        """,
        "rot13",
    )
)
# Beside these words they mean something else: a cat, a crack for light, a wall against the sea, a player, a river.
NO_SLURS = {
    "coon": _set("maine cat cats kitten kittens"),
    "chink": _set("of in"),
    "dyke": _set("sea river along grassy"),
    "hooker": _set("rugby"),
    "negro": _set("rio"),
    "spic": _set("and"),
}
