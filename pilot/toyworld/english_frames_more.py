"""Sentence frames of English captions: settings, true sentences of little news, brief captions."""

# Written as in `english_frames_dense`.
SETTINGS = {
    "setting": """
4 the setting is {scene}
3 the background is {back}
2 in the background there is {back}
2 behind {it} is {back}
the backdrop is {back}
the background shows {back}
the background consists of {back}
behind {it} we see {back}
behind {it} you can see {back}
as a background the picture has {back}
{back} fills the background
{back} can be seen in the background
{back} serves as the background
{back} makes up the background
as for the setting, it is {scene}
for its setting the picture has {scene}
further back there is {back}
{it} [is|are] shown in front of {back}
for a background the picture has {back}
what lies behind {it} is {back}
the surroundings are those of {scene}
the rest of the picture is taken up by {back}
""",
    "setting where": """
3 the scene is set {where}
2 everything is shown {where}
2 all of this is {where}
all this is seen {where}
the whole scene is {where}
everything in the picture is {where}
{it} [is|are] {where}
{it} [is|are] shown {where}
{it} [is|are] seen {where}
you are looking at a scene {where}
it is a scene {where}
the picture is set {where}
""",
    "first setting": """
3 a scene {where}
2 the scene is set {where}
2 the setting is {scene}
the background is {back}
the picture shows {scene}
this picture is set {where}
first of all there is {scene}
an illustrated scene {where}
the backdrop of this picture is {back}
a picture set {where}
""",
    "meadow": """
the ground is green grass and the sky is above it
green grass covers the ground below the sky
below there is grass, and above it the sky
grass stretches across the lower part and the sky fills the upper part
the lower part is green with grass, the upper part is open sky
a green meadow runs along the bottom with the sky above
the grass reaches all the way to the horizon
""",
    "beach": """
pale sand covers the ground, and behind it lies the sea
the sea runs as a blue strip behind the sand
a pale line of foam marks where the water meets the sand
there is sand below, water behind it and sky above
the ground is pale sand, and a strip of water lies along the horizon
beyond the sand of the beach the sea reaches to the horizon
the lower part is sand, then come the water and the sky
""",
    "snow": """
the ground is white with snow and flakes are in the air
snow covers the ground and more of it is falling
white flakes are falling over the snowy ground
the lower part is white snow under a pale sky
the ground lies under a white cover of snow
snowflakes dot the whole picture
everything below the horizon is covered with snow
""",
    "night": """
the sky is dark and dotted with small lights
the sky is very dark, with bright points of light in it
small bright points dot the dark night sky
it is night, and both sky and ground are dark
the night sky fills most of the picture above dark ground
both the ground and the night sky are dark
the dark sky of the night reaches almost down to the bottom
""",
    "sea": """
the water is blue-green and bubbles float in it
bubbles float through the water above the sea floor
bubbles rise in the water
there is water everywhere and a sandy sea floor at the bottom
below lies the sandy floor of the sea, above it only water
the sea water gets darker further down
pale bubbles drift in the blue-green water of the sea
""",
    "room": """
the room has a pale wall and a brown floor
a pale wall rises behind the brown floor of the room
a white strip runs along the foot of the wall
the wall of the room is pale and the floor is brown
one sees a pale wall and, below it, the floor of the room
the floor of the room runs along the bottom in front of a pale wall
floor and wall show that we are indoors
""",
    "city": """
gray buildings stand in a row behind the street
a row of gray buildings rises into the sky
the buildings of the city line the horizon above a gray street
the gray street runs along the bottom, with buildings behind it
buildings of different heights form a skyline
behind the street there are pale gray city buildings
the street is gray and so are the buildings of the city
""",
    "studio": """
the wall and the floor are both a pale gray
the plain background is pale gray from top to bottom
the studio has only a bare gray wall and a gray floor
there is only a plain gray wall and a gray floor
there is nothing in the studio but a gray wall and a gray floor
wall and floor of the studio are plain and gray
nothing but plain gray lies in the background
""",
    "tag list": """
6 {list}
keywords: {list}
picture with {list}
image: {list}
in the picture: {list}
""",
    "tag setting": """
4 {tag}
2 {tag} in the background
2 setting: {tag}
{scene}
{where}
background: {back}
""",
    "tag place": """
4 {noun} {place}
2 {noun}: {place}
{place}: {noun}
{noun} placed {place}
""",
    "tag sign color": """
3 {color} letters
2 {color} text
letters in {color}
{color} writing
""",
    "tag sign place": """
3 {board} {at}
text {at}
{board} placed {at}
word {at}
""",
    "total": """
2 in all there [is|are] {total}
2 there [is|are] {total} in total
that makes {total} in all
altogether the picture holds {total}
{total} [is|are] shown in all
counting everything, there [is|are] {total}
in total you can count {total}
the picture has {total} in all
""",
    "spread": """
2 {S} are spread out over the picture
{S} are spread across the picture
{S} are scattered over the picture
{S} do not touch one another
{S} are set well apart from each other
there is some space between {s}
{S} each have a spot of their own
no two of {s} touch
""",
    "apart": """
2 {S} do not touch one another
2 there is some space between {s}
{S} are set well apart from each other
{S} each have a spot of their own
{S} keep some distance from each other
between {s} some space is left free
""",
    "filler one": """
nothing else stands beside {s}
{S} [is|are] the only thing of note here
{S} [is|are] shown alone
the rest of the picture is left to the background
no other object is shown with it
{S} [is|are] the clear subject of the picture
all attention goes to {s}
""",
    "filler sign": """
there are no other words in the picture
the letters are easy to read
the letters are capitals
the word is short and easy to read
the sign has a thin frame around it
the board of the sign is dark
the letters stand side by side on a dark board
""",
    "filler plain": """
2 there is no writing in the picture
there are no words in the picture
no text appears anywhere
no letters or numbers appear anywhere
""",
    "filler": """
the style is that of a simple illustration
the drawing style is simple and clear
it looks like a picture made of icons
the shapes are simple and easy to make out
the picture is drawn in a friendly cartoon style
everything is drawn in a plain, clean way
the picture is kept simple
the overall look is clean and simple
the forms are rounded off and clearly drawn
it is an illustration, not a photograph
the whole is drawn like a picture in a children's book
the composition is simple
the picture looks like computer art
the style is playful
it has the look of a cartoon
the outlines are clear
the background is plainer than what is in front of it
it is the kind of picture you might find on a greeting card
the drawing is simple enough for a child to understand
""",
}
BRIEF = {
    "brief": """
2 a picture of {x}
an image of {x}
2 draw {x}
a photo of {x}
a drawing of {x}
an illustration of {x}
show me {x}
{x}, please
please draw {x}
draw me {x}
paint {x}
I want {x}
I would like {x}
can you draw {x}
could you draw {x}
could you make {x}
make a picture of {x}
make an image with {x}
create {x}
generate {x}
generate an image of {x}
a simple drawing of {x}
a simple picture of {x}
a cartoon of {x}
a painting of {x}
a sketch of {x}
picture of {x}
image of {x}
drawing of {x}
illustration of {x}
there <is|are> {x}
here <is|are> {x}
we see {x}
you can see {x}
the picture shows {x}
this shows {x}
just {x}
only {x}
nothing but {x}
{x} as an icon
{x}, cartoon style
{x}, simple illustration
{x}, illustration
{x}, digital art
clip art of {x}
a cute picture of {x}
I need {x}
give me {x}
let me see {x}
imagine {x}
a scene with {x}
""",
    "brief where": """
12 {things} {where}
2 {things} in front of {back}
{things} with {back} behind
{things} with {back} in the background
2 {scene} with {things}
{things} and {scene}
{things} set {where}
{things} seen {where}
""",
    "brief where free": """
3 {where}, {things}
3 {things}, {tag}
{tag}: {things}
{tag} with {things}
{things} ({tag})
{things}, all {where}
{where} there <is|are> {things}
{things} on view {where}
{things}, background: {tag}
{things}, with {back} behind
{things}, {back} in the background
""",
    "brief beside": """
3 {a} next to {b}
2 {a} beside {b}
2 {a} with {b}
{a} by {b}
{a} alongside {b}
{a} near {b}
{a} side by side with {b}
""",
    "brief pair": """
8 {a} {rel} {b}
{a} that is {rel} {b}
{b} with {a} {rel} it
{a} placed {rel} {b}
{a} sitting {rel} {b}
{a} located {rel} {b}
{b} that has {a} {rel} it
""",
    "brief pair free": """
2 {rel} {b}, {a}
2 {a}, {rel} {b}
{a} and, {inverse} it, {b}
{a} is {rel} {b}
{a} sits {rel} {b}
{rel} {b} is {a}
{a}; {inverse} it, {b}
""",
    "brief ring": """
4 {a} {inside} {b}
3 {b} {around} {a}
{b} with {a} {inside} it
{b} with {a} in the middle
{a} with {b} around it
{b} that surrounds {a}
{b} surrounding {a}
{b} framing {a}
{a} sitting {inside} {b}
""",
    "brief ring free": """
2 {a} is {inside} {b}
{b} surrounds {a}
{b} encircles {a}
{inside} {b}, {a}
{a}, {inside} {b}
{b}, {around} {a}
""",
    "brief overlap": """
4 {b} {overlapping} {a}
2 {a} {overlapped} {b}
{a} and {b} overlapping
{b} that hides part of {a}
{a} peeking out from behind {b}
{b} covering part of {a}
{a} with {b} in front of it
{a} partly hidden by {b}
""",
    "brief overlap free": """
2 {b} is {overlapping} {a}
{b} overlaps {a}
{b} hides part of {a}
{a}, and in front of it {b}
{a}, {overlapped} {b}
""",
    "brief place": """
6 {thing} {place}
{thing} placed {place}
{thing} sitting {place}
{thing} located {place}
{thing} that is {place}
{thing} to be seen {place}
""",
    "brief place free": """
2 {place}, {thing}
2 {thing}, {place}
{place} {thing}
{place} there is {thing}
{place}: {thing}
{thing} sits {place}
""",
    "brief sign": """
5 a {board} that says {word}
3 a {board} saying {word}
3 the word {word}
2 a {board} with the word {word}
a {board} reading {word}
a {board} that reads {word}
a {board} with {word} on it
a {board} with {word} written on it
the word {word} on a {board}
the letters {word}
the letters {word} on a {board}
the text {word}
the word {word} in capital letters
the word {word} written on a {board}
something with {word} written on it
a {board} with the letters {word}
a {board} with the text {word}
""",
    "brief sign free": """
7 {word}
2 {board} saying {word}
2 {board} that says {word}
2 {word} on a {board}
{board} reading {word}
{board} with the text {word}
{board} with {word} on it
{word} written on a {board}
{word} {board}
text: {word}
{board}: {word}
write {word} on a {board}
write the word {word}
a {board} says {word}
the {board} reads {word}
word {word}
""",
    "brief sign color": """
3 a {board} that says {word} in {color}
2 the {color} word {word}
2 the word {word} in {color}
2 the word {word} in {color} letters
a {board} with the {color} letters {word}
a {board} saying {word} in {color}
{color} letters that say {word}
{color} letters spelling {word}
the word {word} written in {color}
the letters {word} in {color}
a {board} with {word} in {color} letters
""",
    "brief sign color free": """
2 {word} in {color} letters
2 {word} in {color}
{word} written in {color}
{color} text {word} on a {board}
{board} with {color} text {word}
{color} {word}
text {word}, {color}
write {word} in {color}
""",
    "brief sign and": """
4 {sign} and {things}
3 {things} and {sign}
2 {things} with {sign}
2 {sign} with {things}
{sign} together with {things}
{sign} next to {things}
{things} plus {sign}
{things} as well as {sign}
{sign} and also {things}
""",
    "brief sign over": """
4 {sign} above {things}
2 {things} below {sign}
{things} under {sign}
{sign} over {things}
{things} with {sign} above
{things} and above it all {sign}
""",
    "brief sign under": """
4 {sign} below {things}
2 {things} above {sign}
{things} over {sign}
{sign} under {things}
{things} with {sign} below
{things} and below it all {sign}
""",
    "brief tags": """
4 {first}, {last}
2 {first}; {last}
{first} + {last}
{first} & {last}
{first} / {last}
""",
}
