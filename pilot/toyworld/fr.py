"""French captions of the toy world: its words, its frames and its contractions."""

import re

from . import romance, romance_captions

# Lists of synonyms begin with the commonest word. All tables are our choice.
NOUNS = romance.nouns("""
astronaut: astronaute|m|astronautes; cosmonaute|m|cosmonautes; spationaute|m|spationautes
cat: chat|m|chats; ~chaton|m|chatons; matou|m|matous; ~minou|m|minous
dog: chien|m|chiens; ~chiot|m|chiots; toutou|m|toutous
fish: poisson|m|poissons
butterfly: papillon|m|papillons
cactus: cactus|m|cactus; plante grasse|f|plantes grasses
tulip: tulipe|f|tulipes; fleur|f|fleurs
mushroom: champignon|m|champignons
tree: arbre|m|arbres; ~arbuste|m|arbustes
house: maison|f|maisons; ~maisonnette|f|maisonnettes; demeure|f|demeures
castle: château|m|châteaux; château fort|m|châteaux forts; forteresse|f|forteresses
apple: pomme|f|pommes
carrot: carotte|f|carottes
balloon: ballon|m|ballons; ballon de baudruche|m|ballons de baudruche
gift: cadeau|m|cadeaux; paquet cadeau|m|paquets cadeaux; boîte cadeau|f|boîtes cadeaux
umbrella: parapluie|m|parapluies; ombrelle|f|ombrelles
teapot: théière|f|théières
car: voiture|f|voitures; auto|f|autos; automobile|f|automobiles
ghost: fantôme|m|fantômes; spectre|m|spectres; revenant|m|revenants
robot: robot|m|robots; androïde|m|androïdes; automate|m|automates
bell: cloche|f|cloches; ~clochette|f|clochettes
heart: cœur|m|cœurs
star: étoile|f|étoiles
ring: anneau|m|anneaux; cercle|m|cercles; cerceau|m|cerceaux
sign: panneau|m|panneaux; pancarte|f|pancartes; écriteau|m|écriteaux; enseigne|f|enseignes
""")
COLORS = romance.adjectives("""
red: rouge/rouges; rouge vif; de couleur rouge; écarlate/écarlates
orange: orange; orangé/orangée/orangés/orangées; de couleur orange; orange vif
yellow: jaune/jaunes; jaune vif; de couleur jaune; jaune d'or
green: vert/verte/verts/vertes; vert vif; de couleur verte; vert émeraude
cyan: cyan; turquoise; bleu turquoise; de couleur cyan
blue: bleu/bleue/bleus/bleues; bleu vif; de couleur bleue; bleu roi
purple: violet/violette/violets/violettes; mauve/mauves; de couleur violette
pink: rose/roses; rose vif; de couleur rose; rose bonbon
""")
SIZES = romance.adjectives("""
small: <petit/petite/petits/petites; <tout petit/toute petite/tout petits/toutes petites;
    de petite taille; <minuscule/minuscules
medium: de taille moyenne; de grandeur moyenne; de dimensions moyennes; de taille intermédiaire
large: <grand/grande/grands/grandes; <gros/grosse/gros/grosses; <énorme/énormes; de grande taille
""")
PLACES = romance.phrases("""
top left: en haut à gauche; dans le coin supérieur gauche; en haut à gauche de l'image;
    dans l'angle en haut à gauche
top center: en haut au centre; en haut au milieu; tout en haut au centre
top right: en haut à droite; dans le coin supérieur droit; en haut à droite de l'image;
    dans l'angle en haut à droite
middle left: à gauche; au milieu à gauche; à mi-hauteur sur la gauche; du côté gauche de l'image
middle center: au milieu; au centre; au centre de l'image; en plein milieu
middle right: à droite; au milieu à droite; à mi-hauteur sur la droite; du côté droit de l'image
bottom left: en bas à gauche; dans le coin inférieur gauche; en bas à gauche de l'image;
    dans l'angle en bas à gauche
bottom center: en bas au centre; en bas au milieu; tout en bas au centre
bottom right: en bas à droite; dans le coin inférieur droit; en bas à droite de l'image;
    dans l'angle en bas à droite
""")
CORNERS = romance.phrases("""
top left: le coin supérieur gauche; l'angle en haut à gauche
top center: le milieu du haut de l'image; le centre de la partie supérieure
top right: le coin supérieur droit; l'angle en haut à droite
middle left: le milieu du côté gauche; la gauche de l'image, à mi-hauteur
middle center: le centre de l'image; le milieu de l'image
middle right: le milieu du côté droit; la droite de l'image, à mi-hauteur
bottom left: le coin inférieur gauche; l'angle en bas à gauche
bottom center: le milieu du bas de l'image; le centre de la partie inférieure
bottom right: le coin inférieur droit; l'angle en bas à droite
""")
RELATIONS = romance.phrases("""
left of: à gauche de; sur la gauche de; du côté gauche de; plus à gauche que
right of: à droite de; sur la droite de; du côté droit de; plus à droite que
above: au-dessus de; plus haut que
below: en dessous de; sous; au-dessous de; plus bas que
inside: dans; à l'intérieur de; au milieu de
around: autour de; tout autour de
front: devant; en partie devant
behind: derrière; en partie derrière; en partie [caché|cachée|cachés|cachées] par;
    partiellement [masqué|masquée|masqués|masquées] par
""")
SIDES = {"left of": "gauche", "right of": "droite"}
WITHIN = romance.phrases("""
meadow: dans un pré; dans une prairie; dans un champ d'herbe; sur l'herbe
beach: sur une plage; à la plage; au bord de la mer; sur une plage de sable
snow: dans la neige; dans un paysage enneigé; sur un champ de neige; dans un décor d'hiver enneigé
night: dans la nuit; sous un ciel étoilé; sous les étoiles; dans un ciel nocturne étoilé
sea: sous l'eau; sous la mer; au fond de la mer; dans l'océan
room: dans une pièce; dans une chambre; dans une salle; dans un salon
city: en ville; dans une ville; devant des immeubles; dans un décor urbain
studio: dans un studio; dans un studio au fond uni; devant un fond uni;
    devant le fond neutre d'un studio
""")
BRIEF_WITHIN = romance.phrases("""
meadow: dans un pré; dans une prairie; dans l'herbe; à la campagne
beach: sur la plage; à la plage; au bord de la mer; sur le sable
snow: dans la neige; sur la neige; dans un paysage enneigé
night: la nuit; dans la nuit; sous les étoiles; sous un ciel étoilé
sea: sous l'eau; sous la mer; au fond de l'océan; dans la mer
room: dans une pièce; dans une chambre; dans un salon; dans une salle
city: en ville; dans une ville; devant des immeubles
studio: sur fond uni; dans un studio; en studio; sur un fond neutre
""")
BACKDROPS = romance.phrases("""
meadow: un pré sous le ciel; de l'herbe et le ciel; une prairie avec le ciel au-dessus
beach: une plage de sable et la mer; du sable et la mer; une plage au bord de l'eau
snow: un paysage enneigé; de la neige; un champ couvert de neige
night: un ciel sombre parsemé d'étoiles; une nuit étoilée; un ciel nocturne avec des étoiles
sea: l'eau de la mer; un paysage sous-marin; un monde sous-marin
room: l'intérieur d'une pièce; une pièce avec son mur et son sol; une chambre
city: des immeubles; les bâtiments d'une ville; une ville avec ses immeubles
studio: un studio uni; un studio neutre et vide; une toile unie de studio
""")
SIGN_PLACES = romance.phrases("""
top: en haut; en haut de l'image; tout en haut; dans le haut de l'image
bottom: en bas; en bas de l'image; tout en bas; dans le bas de l'image
""")
FRAMES = romance.frames("""
[open]
voit: on voit {x}.
montre: l'image montre {x}.
il y a: il y a {x}.
represente: cette image représente {x}.
dessin: le dessin présente {x}.
rien: {x}.
voici: voici {x}.
avec: une image avec {x}.
illustration: une illustration qui montre {x}.
distingue: sur l'image, on distingue {x}.
contient: l'image contient {x}.
apparait: {x} [apparaît|apparaissent] sur l'image.
peut: on peut voir ici {x}.
[open in]
voit: on voit {x} {i}.
dedans voit: {i}, on voit {x}.
dedans il y a: {i}, il y a {x}.
montre: l'image montre {x} {i}.
rien: {x} {i}.
se trouve: {i} se [trouve|trouvent] {x}.
scene: la scène se passe {i} : on y voit {x}.
dessin: le dessin représente {x} {i}.
apercoit: {i}, on aperçoit {x}.
sont: {x} [est|sont] {i}.
image: une image de style dessin avec {x} {i}.
[pair]
voit: on voit {x} {r} {y}.
rien: {x} {r} {y}.
montre: l'image montre {x} {r} {y}.
se trouve: {x} se trouve {r} {y}.
il y a: il y a {x} {r} {y}.
dessin: un dessin avec {x} {r} {y}.
[pair in]
voit: {i}, on voit {x} {r} {y}.
est: {i}, {x} se trouve {r} {y}.
montre: l'image montre {x} {r} {y}, {i}.
[new place]
voit: {p}, on voit {x}.
il y a: {p}, il y a {x}.
se trouve: {x} se trouve {p}.
apercoit: on aperçoit {x} {p}.
aussi: {p} se trouve aussi {x}.
[add]
aussi: il y a aussi {x}.
egalement: on voit également {x}.
complete: {x} [complète|complètent] la scène.
remarque: on remarque aussi {x}.
encore: l'image contient encore {x}.
ajoute: à cela s'[ajoute|ajoutent] {x}.
[look]
est: {a} [est|sont] {c} et {z}.
taille: {a} [est|sont] {z} et {c}.
[colour]
est: {a} [est|sont] {c}.
[size]
est: {a} [est|sont] {z}.
parait: {a} [paraît|paraissent] {z}.
[place]
est: {a} est {p}.
se trouve: {a} se trouve {p}.
place: {a} est [placé|placée|placés|placées] {p}.
on trouve: {p}, on trouve {a}.
y est: {p} se trouve {a}.
apparait: {a} apparaît {p}.
voit: on voit {a} {p}.
cest: c'est {p} que se trouve {a}.
[it]
est: [il|elle|ils|elles] est {p}.
se trouve: [il|elle|ils|elles] se trouve {p}.
place: [il|elle|ils|elles] est [placé|placée|placés|placées] {p}.
voit: on [le|la|les|les] voit {p}.
[corner]
occupe: {a} occupe {c}.
cest: c'est {a} qui occupe {c}.
[two places]
et: {a} est {p} et {b} {q}.
tandis: {a} se trouve {p}, tandis que {b} est {q}.
alors: {a} est [placé|placée|placés|placées] {p}, alors que {b} se trouve {q}.
il y a: {p}, il y a {a}, et {q}, {b}.
voit: on voit {a} {p} et {b} {q}.
[relation]
est: {a} est {r} {b}.
se trouve: {a} se trouve {r} {b}.
situe: {a} est [situé|située|situés|situées] {r} {b}.
y est: {r} {b} se trouve {a}.
voit: {r} {b}, on voit {a}.
[side]
a: {b} a {a} à sa {d}.
plus: {a} est plus à {d} que {b}.
[ring]
entoure: {a} entoure {b}.
encercle: {a} encercle {b}.
entoure par: {b} est [entouré|entourée|entourés|entourées] par {a}.
au milieu: {b} est à l'intérieur de {a}.
[overlap]
cache: {f} cache en partie {b}.
recouvre: {f} recouvre partiellement {b}.
devant: {f} est devant {b}, qui est en partie [caché|cachée|cachés|cachées].
cache par: {b} est en partie [caché|cachée|cachés|cachées] par {f}.
deux: {f} et {b} se chevauchent.
chevauche: {f} chevauche {b}.
derriere: une partie de {b} disparaît derrière {f}.
[total]
tout: il y a {n} objets en tout.
compte: l'image compte {n} éléments au total.
[count]
nombre: {the} {k} sont au nombre de {n}.
compte: on compte {n} {k} en tout.
total: au total, cela fait {n} {k}.
[sign]
porte: {s}{p} porte le mot {w}{c}.
affiche: {s}{p} affiche {w}{c}.
ecrit: le mot {w} est écrit{c} sur {s}{p}.
lire: on peut lire {w}{c} sur {s}{p}.
sur: sur {s}{p}, on lit {w}{c}.
ou: il y a {s}{p} où il est écrit {w}{c}.
indique: {s}{p} indique {w}{c}.
inscription: l'inscription {w}{c} figure sur {s}{p}.
[sign front]
porte: {p}, {s} porte l'inscription {w}{c}.
est: {p} se trouve {s} avec le mot {w}{c}.
lit: {p}, on lit {w}{c} sur {s}.
[letters]
lettres: les lettres sont {f}.
texte: le texte est {m}.
inscription: le mot est écrit en lettres {f}.
[setting]
passe: la scène se passe {i}.
tout: tout se passe {i}.
deroule: la scène se déroule {i}.
situe: la scène est située {i}.
[backdrop]
arriere: à l'arrière-plan, on voit {b}.
fond: au fond, il y a {b}.
decor: le décor montre {b}.
represente: le fond représente {b}.
derriere: derrière, on distingue {b}.
[backdrop first]
decor: le décor : {b}.
represente: l'image a pour décor {b}.
montre: le décor montre {b}.
[style]
simple: c'est un dessin simple.
traits: le dessin est simple et lisible.
rendu: le rendu est simple et net.
style: le style est celui d'une image dessinée.
[recap]
resume: en résumé : {x} {i}.
bref: bref, {x} {i}.
donc: on a donc {x} {i}.
[brief]
dessine: dessine {x}
dessine-moi: dessine-moi {x}
veux: je veux {x}
voudrais: je voudrais {x}
avec: une image avec {x}
dessin: un dessin avec {x}
montre: montre-moi {x}
plait: {x} s'il te plaît
peux: peux-tu dessiner {x} ?
fais: fais-moi {x}
[brief plain]
rien: {x}
[brief bare]
rien: {x}
style: {x}, dessin
image: image : {x}
[brief in front]
debut: {i}, {x}
voit: {i}, on voit {x}
[brief place]
rien: {x} {p}
seul: {x} [placé|placée|placés|placées] {p}
[brief pair]
rien: {x} {r} {y}
est: {x} qui est {r} {y}
[brief overlap]
deux: {x} qui se chevauchent
partie: {x} qui se recouvrent en partie
[brief side]
avec: {b} avec {a} à sa {d}
[brief sign]
avec: {s}{p} avec le mot {w}{c}
mot: le mot {w}{c}{p}
dit: {s}{p} qui dit {w}{c}
ou: {s}{p} où il est écrit {w}{c}
sur: {w}{c} sur {s}{p}
[brief thing and sign]
et: {x} et {s}{p} avec le mot {w}{c}
avec: {x} avec le mot {w}{c}{p}
dit: {x} et {s}{p} qui dit {w}{c}
""")

_ELIDE = re.compile(r"\b(?:([DdJj]|[Qq]u)e|([Ll])[ea]) (?=[aeiouéèêœ])")
_JOINED = ((" de les ", " des "), (" de le ", " du "), (" à les ", " aux "), (" à le ", " au "))


def smooth(text: str) -> str:
    "Elisions and contractions: 'le arbre' -> \"l'arbre\", 'de un' -> \"d'un\", 'de le' -> 'du'."
    text = _ELIDE.sub(lambda m: f"{m[1] or m[2]}'", text)
    for apart, joined in _JOINED:
        text = text.replace(apart, joined)
    return text


GRAMMAR = romance.Grammar(
    lang="fr",
    nouns=NOUNS,
    colors=COLORS,
    sizes=SIZES,
    places=PLACES,
    corners=CORNERS,
    relations=RELATIONS,
    sides=SIDES,
    within=WITHIN,
    brief_within=BRIEF_WITHIN,
    backdrops=BACKDROPS,
    sign_places=SIGN_PLACES,
    numbers=("", "un", "deux", "trois", "quatre"),
    articles={
        "a": ("un", "une", "des", "des"),
        "one": ("un", "une"),
        "the": ("le", "la", "les", "les"),
        "some": ("un", "une", "des", "des"),
        "some before": "de",
    },
    groups={
        2: [("une paire de", True), ("un duo de", False)],
        3: [("un groupe de trois", False), ("un trio de", False)],
        4: [("un groupe de quatre", False), ("un ensemble de quatre", False)],
    },
    join=(", ", " et ", " ainsi que "),
    others=[("l'un {a} et l'autre {b}", "l'une {a} et l'autre {b}")],
    letters=("en lettres {}", "en majuscules {}", "en caractères {}"),
    hue=("en {}",),
    quotes=("« {} »", '"{}"', "“{}”"),
    frames=FRAMES,
    smooth=smooth,
)


def dense(scene, rng) -> tuple:
    "A French caption that states most of the scene: (text, facts, frames)."
    return romance_captions.dense(GRAMMAR, scene, rng)


def brief(scene, rng, skill=None) -> tuple:
    "A French caption of 2 to 14 words, stating what a skill is about: (text, facts, frames)."
    return romance_captions.brief(GRAMMAR, scene, rng, skill)
