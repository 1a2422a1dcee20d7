"""Spanish captions of the toy world: its words, its frames and its contractions."""

from . import romance, romance_captions

# Lists of synonyms begin with the commonest word. All tables are our choice.
NOUNS = romance.nouns("""
astronaut: astronauta|m|astronautas; cosmonauta|m|cosmonautas
cat: gato|m|gatos; ~gatito|m|gatitos; minino|m|mininos; felino|m|felinos
dog: perro|m|perros; ~perrito|m|perritos; ~cachorro|m|cachorros; can|m|canes
fish: pez|m|peces; ~pececito|m|pececitos; ~pececillo|m|pececillos
butterfly: mariposa|f|mariposas
cactus: cactus|m|cactus; cacto|m|cactos
tulip: tulipán|m|tulipanes; flor|f|flores
mushroom: hongo|m|hongos; seta|f|setas; champiñón|m|champiñones
tree: árbol|m|árboles; ~arbolito|m|arbolitos
house: casa|f|casas; ~casita|f|casitas; vivienda|f|viviendas
castle: castillo|m|castillos; fortaleza|f|fortalezas
apple: manzana|f|manzanas
carrot: zanahoria|f|zanahorias
balloon: globo|m|globos
gift: regalo|m|regalos; paquete de regalo|m|paquetes de regalo; caja de regalo|f|cajas de regalo
umbrella: paraguas|m|paraguas; sombrilla|f|sombrillas
teapot: tetera|f|teteras
car: coche|m|coches; carro|m|carros; auto|m|autos; automóvil|m|automóviles
ghost: fantasma|m|fantasmas; espectro|m|espectros
robot: robot|m|robots; androide|m|androides; autómata|m|autómatas
bell: campana|f|campanas; ~campanilla|f|campanillas
heart: corazón|m|corazones
star: estrella|f|estrellas
ring: anillo|m|anillos; aro|m|aros; círculo|m|círculos
sign: cartel|m|carteles; letrero|m|letreros; rótulo|m|rótulos; tablero|m|tableros
""")
COLORS = romance.adjectives("""
red: rojo/roja/rojos/rojas; de color rojo; de color rojo vivo; colorado/colorada/colorados/coloradas
orange: naranja; anaranjado/anaranjada/anaranjados/anaranjadas; de color naranja
yellow: amarillo/amarilla/amarillos/amarillas; de color amarillo; de color amarillo vivo
green: verde/verdes; de color verde; de color verde esmeralda; de color verde vivo
cyan: cian; turquesa; de color cian; celeste/celestes
blue: azul/azules; de color azul; de color azul intenso; de color azul rey
purple: morado/morada/morados/moradas; violeta/violetas; púrpura; de color morado
pink: rosa; rosado/rosada/rosados/rosadas; de color rosa
""")
SIZES = romance.adjectives("""
small: pequeño/pequeña/pequeños/pequeñas; <pequeño/pequeña/pequeños/pequeñas; de tamaño pequeño;
    diminuto/diminuta/diminutos/diminutas
medium: mediano/mediana/medianos/medianas; de tamaño mediano; de tamaño medio
large: grande/grandes; <<gran/grandes; enorme/enormes; de gran tamaño
""")
PLACES = romance.phrases("""
top left: arriba a la izquierda; en la esquina superior izquierda; en la parte superior izquierda;
    arriba en el lado izquierdo
top center: arriba en el centro; en la parte superior central; arriba en el medio
top right: arriba a la derecha; en la esquina superior derecha; en la parte superior derecha;
    arriba en el lado derecho
middle left: a la izquierda; en el centro a la izquierda; a media altura a la izquierda;
    en el lado izquierdo
middle center: en el centro; en el medio; en el centro de la imagen; justo en el centro
middle right: a la derecha; en el centro a la derecha; a media altura a la derecha;
    en el lado derecho
bottom left: abajo a la izquierda; en la esquina inferior izquierda;
    en la parte inferior izquierda; abajo en el lado izquierdo
bottom center: abajo en el centro; en la parte inferior central; abajo en el medio
bottom right: abajo a la derecha; en la esquina inferior derecha; en la parte inferior derecha;
    abajo en el lado derecho
""")
CORNERS = romance.phrases("""
top left: la esquina superior izquierda; el ángulo superior izquierdo
top center: el centro de la parte superior; el medio de la parte de arriba
top right: la esquina superior derecha; el ángulo superior derecho
middle left: el centro del lado izquierdo; la parte media del lado izquierdo
middle center: el centro de la imagen; el medio de la imagen
middle right: el centro del lado derecho; la parte media del lado derecho
bottom left: la esquina inferior izquierda; el ángulo inferior izquierdo
bottom center: el centro de la parte inferior; el medio de la parte de abajo
bottom right: la esquina inferior derecha; el ángulo inferior derecho
""")
RELATIONS = romance.phrases("""
left of: a la izquierda de; al lado izquierdo de; más a la izquierda que
right of: a la derecha de; al lado derecho de; más a la derecha que
above: encima de; por encima de; más arriba que; arriba de
below: debajo de; por debajo de; más abajo que; bajo
inside: dentro de; en el interior de; en medio de
around: alrededor de; en torno a
front: delante de; en parte delante de; parcialmente delante de
behind: detrás de; en parte detrás de; medio [escondido|escondida|escondidos|escondidas] detrás de;
    parcialmente [tapado|tapada|tapados|tapadas] por
""")
SIDES = {"left of": "izquierda", "right of": "derecha"}
WITHIN = romance.phrases("""
meadow: en un prado; en una pradera; en un campo de hierba; sobre la hierba
beach: en una playa; en la playa; a la orilla del mar; en una playa de arena
snow: en la nieve; en un paisaje nevado; en un campo nevado; sobre la nieve
night: en la noche; bajo un cielo estrellado; bajo las estrellas; en una noche estrellada
sea: bajo el agua; bajo el mar; en el fondo del mar; en el océano
room: en una habitación; en un cuarto; dentro de una habitación; en una sala
city: en la ciudad; en una ciudad; delante de unos edificios; en un entorno urbano
studio: en un estudio; en un estudio de fondo liso; ante un fondo liso;
    ante el fondo neutro de un estudio
""")
BRIEF_WITHIN = romance.phrases("""
meadow: en un prado; en la hierba; en una pradera; en el campo
beach: en la playa; a la orilla del mar; en la arena; junto al mar
snow: en la nieve; sobre la nieve; en un paisaje nevado
night: de noche; en la noche; bajo las estrellas; bajo un cielo estrellado
sea: bajo el agua; bajo el mar; en el fondo del mar; en el océano
room: en una habitación; en un cuarto; en un salón; en una sala
city: en la ciudad; en una ciudad; delante de unos edificios
studio: sobre fondo liso; en un estudio; con fondo liso; sobre un fondo neutro
""")
BACKDROPS = romance.phrases("""
meadow: un prado bajo el cielo; un campo de hierba bajo el cielo; una pradera con el cielo encima
beach: una playa de arena junto al mar; una playa con su mar; una playa a la orilla del mar
snow: un paisaje nevado; un campo cubierto de nieve; un campo nevado
night: un cielo oscuro lleno de estrellas; una noche estrellada; un cielo nocturno con estrellas
sea: un paisaje submarino; un mundo submarino; agua de mar
room: una habitación; una habitación con su pared y su suelo; un cuarto
city: una ciudad con sus edificios; un grupo de edificios; un paisaje urbano
studio: un estudio liso; un estudio neutro y vacío; una tela lisa de estudio
""")
SIGN_PLACES = romance.phrases("""
top: arriba; en la parte superior; en la parte de arriba; en lo alto de la imagen
bottom: abajo; en la parte inferior; en la parte de abajo; al pie de la imagen
""")
FRAMES = romance.frames("""
[open]
ve: se [ve|ven] {x}.
muestra: la imagen muestra {x}.
hay: hay {x}.
dibujo: el dibujo presenta {x}.
nada: {x}.
con: una imagen con {x}.
ilustracion: una ilustración que muestra {x}.
aparece: en la imagen [aparece|aparecen] {x}.
vemos: aquí vemos {x}.
contiene: la imagen contiene {x}.
puede: se [puede|pueden] ver {x}.
representa: esta imagen representa {x}.
tenemos: en el dibujo tenemos {x}.
[open in]
ve: se [ve|ven] {x} {i}.
dentro ve: {i} se [ve|ven] {x}.
dentro hay: {i} hay {x}.
muestra: la imagen muestra {x} {i}.
nada: {x} {i}.
encuentra: {i} se [encuentra|encuentran] {x}.
escena: la escena ocurre {i}: allí se [ve|ven] {x}.
dibujo: el dibujo representa {x} {i}.
vemos: {i} vemos {x}.
esta: {x} [está|están] {i}.
imagen: una imagen en forma de dibujo con {x} {i}.
[pair]
ve: se ve {x} {r} {y}.
nada: {x} {r} {y}.
muestra: la imagen muestra {x} {r} {y}.
esta: {x} está {r} {y}.
hay: hay {x} {r} {y}.
dibujo: un dibujo con {x} {r} {y}.
[pair in]
ve: {i} se ve {x} {r} {y}.
esta: {i}, {x} está {r} {y}.
muestra: la imagen muestra {x} {r} {y}, {i}.
[new place]
ve: {p} se ve {x}.
hay: {p} hay {x}.
esta: {x} está {p}.
vemos: vemos {x} {p}.
tambien: {p} hay también {x}.
[add]
tambien: también hay {x}.
ademas: además, se [ve|ven] {x}.
completa: {x} [completa|completan] la escena.
tambien se ve: se [ve|ven] también {x}.
incluye: la imagen incluye además {x}.
suma: a esto se [suma|suman] {x}.
[look]
es: {a} [es|son] {c} y {z}.
tamano: {a} [es|son] {z} y {c}.
[colour]
es: {a} [es|son] {c}.
[size]
es: {a} [es|son] {z}.
parece: {a} [parece|parecen] {z}.
[place]
esta: {a} está {p}.
encuentra: {a} se encuentra {p}.
situado: {a} está [situado|situada|situados|situadas] {p}.
ahi esta: {p} está {a}.
aparece: {a} aparece {p}.
se ve: se ve {a} {p}.
ahi se ve: {p} se ve {a}.
ubica: {a} se ubica {p}.
[it]
esta: está {p}.
encuentra: se encuentra {p}.
colocado: está [colocado|colocada|colocados|colocadas] {p}.
vemos: [lo|la|los|las] vemos {p}.
[corner]
ocupa: {a} ocupa {c}.
en: en {c} se halla {a}.
[two places]
y: {a} está {p} y {b}, {q}.
mientras: {a} se encuentra {p}, mientras que {b} está {q}.
pero: {a} está [situado|situada|situados|situadas] {p} y {b} se halla {q}.
hay: {p} está {a} y, {q}, {b}.
se ve: se ve {a} {p} y {b} {q}.
[relation]
esta: {a} está {r} {b}.
encuentra: {a} se encuentra {r} {b}.
situado: {a} está [situado|situada|situados|situadas] {r} {b}.
ahi esta: {r} {b} está {a}.
ve: {r} {b} se ve {a}.
[side]
tiene: {b} tiene {a} a su {d}.
mas: {a} está más a la {d} que {b}.
[ring]
rodea: {a} rodea a {b}.
encierra: {a} encierra a {b}.
rodeado: {b} está [rodeado|rodeada|rodeados|rodeadas] por {a}.
interior: {b} se halla en el interior de {a}.
[overlap]
tapa: {f} tapa una parte de {b}.
cubre: {f} cubre en parte {b}.
delante: {f} está delante de {b}, que queda medio [tapado|tapada|tapados|tapadas].
tapado: {b} está parcialmente [tapado|tapada|tapados|tapadas] por {f}.
dos: {f} y {b} se superponen.
superpone: {f} se superpone a {b}.
detras: una parte de {b} queda oculta detrás de {f}.
[total]
total: hay {n} objetos en total.
suma: en total, la imagen tiene {n} elementos.
[count]
son: {the} {k} son {n} en total.
total: hay {n} {k} en total.
cuenta: se cuentan {n} {k}.
[sign]
lleva: {s}{p} lleva la palabra {w}{c}.
dice: {s}{p} dice {w}{c}.
escrita: la palabra {w} está escrita{c} en {s}{p}.
leer: se puede leer {w}{c} en {s}{p}.
en: en {s}{p} se lee {w}{c}.
donde: hay {s}{p} donde está escrito {w}{c}.
muestra: {s}{p} muestra la palabra {w}{c}.
inscripcion: la inscripción {w}{c} figura en {s}{p}.
[sign front]
lleva: {p}, {s} lleva la inscripción {w}{c}.
hay: {p} hay {s} con la palabra {w}{c}.
lee: {p} se lee {w}{c} en {s}.
[letters]
letras: las letras son {f}.
texto: el texto es {m}.
palabra: la palabra está escrita con letras {f}.
[setting]
ocurre: la escena ocurre {i}.
todo: todo sucede {i}.
desarrolla: la escena se desarrolla {i}.
situa: la escena se sitúa {i}.
[backdrop]
fondo: al fondo se ve {b}.
hay: de fondo hay {b}.
decorado: el escenario es {b}.
representa: el fondo representa {b}.
detras: detrás se distingue {b}.
[backdrop first]
escenario: el escenario: {b}.
tiene: la imagen tiene como fondo {b}.
es: el escenario es {b}.
[style]
simple: es un dibujo sencillo.
claro: el dibujo es simple y claro.
acabado: el acabado es simple y limpio.
estilo: el estilo es el de una imagen dibujada.
[recap]
resumen: en resumen: {x} {i}.
breve: en pocas palabras, {x} {i}.
asi: así pues, {x} {i}.
[brief]
dibuja: dibuja {x}
dibujame: dibújame {x}
quiero: quiero {x}
quisiera: quisiera ver {x}
con: una imagen con {x}
dibujo: un dibujo con {x}
muestrame: muéstrame {x}
favor: {x}, por favor
puedes: ¿puedes dibujar {x}?
haz: hazme {x}
[brief plain]
nada: {x}
[brief bare]
nada: {x}
estilo: {x}, dibujo
imagen: imagen: {x}
[brief in front]
delante: {i}, {x}
ve: {i} hay {x}
[brief place]
nada: {x} {p}
situado: {x} [situado|situada|situados|situadas] {p}
[brief pair]
nada: {x} {r} {y}
esta: {x} que está {r} {y}
[brief overlap]
dos: {x} que se superponen
parte: {x} que se tapan en parte
[brief side]
con: {b} con {a} a su {d}
[brief sign]
con: {s}{p} con la palabra {w}{c}
palabra: la palabra {w}{c}{p}
dice: {s}{p} que dice {w}{c}
donde: {s}{p} donde pone {w}{c}
en: {w}{c} en {s}{p}
[brief thing and sign]
y: {x} y {s}{p} con la palabra {w}{c}
con: {x} con la palabra {w}{c}{p}
dice: {x} y {s}{p} que dice {w}{c}
""")


def smooth(text: str) -> str:
    "Contractions: 'de el' -> 'del', 'a el' -> 'al'."
    return text.replace(" de el ", " del ").replace(" a el ", " al ")


GRAMMAR = romance.Grammar(
    lang="es",
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
    numbers=("", "un", "dos", "tres", "cuatro"),
    articles={
        "a": ("un", "una"),
        "one": ("uno", "una"),
        "the": ("el", "la", "los", "las"),
        "some": ("un", "una", "unos", "unas"),
    },
    groups={
        2: [("un par de", False), ("una pareja de", True)],
        3: [("un grupo de tres", False), ("un trío de", False)],
        4: [("un grupo de cuatro", False), ("un conjunto de cuatro", False)],
    },
    join=(", ", " y ", " y también "),
    others=[("uno {a} y otro {b}", "una {a} y otra {b}")],
    letters=("con letras {}", "en letras {}", "con mayúsculas {}"),
    hue=("en {}",),
    quotes=("«{}»", '"{}"', "“{}”"),
    frames=FRAMES,
    smooth=smooth,
)


def dense(scene, rng) -> tuple:
    "A Spanish caption that states most of the scene: (text, facts, frames)."
    return romance_captions.dense(GRAMMAR, scene, rng)


def brief(scene, rng, skill=None) -> tuple:
    "A Spanish caption of 2 to 14 words, stating what a skill is about: (text, facts, frames)."
    return romance_captions.brief(GRAMMAR, scene, rng, skill)
