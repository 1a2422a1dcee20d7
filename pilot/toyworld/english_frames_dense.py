"""Sentence frames of dense English captions."""

# One frame a line. {slot}: a phrase; [is|are]: by the number of the subject; <is|are>: by that of
# the first thing in a list. A number in front is a weight.
DENSE = {
    "open": """
4 there <is|are> {things}
3 this picture shows {things}
3 the picture shows {things}
2 the image shows {things}
3 a picture of {things}
2 an image of {things}
2 an illustration of {things}
2 a drawing of {things}
a simple drawing shows {things}
a simple illustration shows {things}
in this picture there <is|are> {things}
in the picture there <is|are> {things}
in the image you can see {things}
2 we see {things}
2 you can see {things}
in this picture we see {things}
here we have {things}
here <is|are> {things}
3 {things}
2 {things} [is|are] shown
{things} [is|are] shown in this picture
{things} [appears|appear] in the picture
{things} [can|can] be seen
{things} [makes|make] up this picture
the picture features {things}
the image features {things}
the picture depicts {things}
this illustration depicts {things}
the picture contains {things}
the scene contains {things}
the image displays {things}
the subject of this picture is {things}
the main subject is {things}
a digital illustration with {things}
a cartoon picture of {things}
this is a picture of {things}
this is a drawing of {things}
what we see here is {things}
what the picture shows is {things}
what you can see is {things}
somebody has drawn {things}
the artist has drawn {things}
pictured here <is|are> {things}
depicted here <is|are> {things}
at first glance you see {things}
the eye falls on {things}
the picture is of {things}
the drawing consists of {things}
a scene with {things}
a scene showing {things}
an icon-like picture of {things}
looking at the picture, one sees {things}
the viewer sees {things}
in view <is|are> {things}
on display <is|are> {things}
""",
    "open where": """
4 {things} {where}
3 {where} there <is|are> {things}
3 there <is|are> {things} {where}
2 the picture shows {things} {where}
2 this picture shows {things} {where}
2 a picture of {things} {where}
an image of {things} {where}
an illustration of {things} {where}
a drawing of {things} {where}
2 {where} we see {things}
{where} you can see {things}
{things} [is|are] shown {where}
{things} [appears|appear] {where}
{things} [can|can] be seen {where}
{where} [appears|appear] {things}
{where} <is|are> {things}
{where}, {things} [is|are] shown
{where}, {things} [can|can] be seen
the image shows {things} {where}
we see {things} {where}
you can see {things} {where}
the scene shows {things} {where}
shown {where} <is|are> {things}
seen {where} <is|are> {things}
a cartoon scene {where} with {things}
an illustrated scene {where} shows {things}
a scene {where}, with {things}
this scene {where} contains {things}
a picture taken up by {things} {where}
""",
    "open scene": """
3 {scene} with {things}
2 {things} with {back} in the background
2 {things} against {back}
the picture shows {scene} with {things}
the image shows {scene} and {things}
in front of {back} there <is|are> {things}
in front of {back} we see {things}
against {back} there <is|are> {things}
set against {back}, {things} [makes|make] up the picture
{things}, with {back} behind
{scene} is the setting for {things}
{back} forms the backdrop for {things}
{back} serves as the background for {things}
{back} makes the background, and in front of it <is|are> {things}
the setting is {scene}, with {things}
the background is {back}, and in front of it <is|are> {things}
with {back} as the background, the picture shows {things}
with {scene} as its setting, the picture displays {things}
picture {scene}, and in it {things}
{things} in front of {back}
{things} set in front of {back}
""",
    "open pair": """
5 {pair}
3 there is {pair}
2 the picture shows {pair}
2 this picture shows {pair}
the image shows {pair}
2 a picture of {pair}
an illustration of {pair}
a drawing of {pair}
we see {pair}
you can see {pair}
in this picture there is {pair}
the picture is of {pair}
here we have {pair}
the scene consists of {pair}
this is a picture of {pair}
what we see here is {pair}
shown here is {pair}
the drawing shows {pair}
""",
    "open pair where": """
4 {pair} {where}
2 {where} there is {pair}
2 the picture shows {pair} {where}
2 a picture of {pair} {where}
{where} we see {pair}
there is {pair} {where}
an image of {pair} {where}
we see {pair} {where}
you can see {pair} {where}
{where} you can see {pair}
shown {where} is {pair}
{pair}, with {back} in the background
{pair}, all of it {where}
{scene} with {pair}
in front of {back} there is {pair}
against {back} we see {pair}
""",
    "noun color size": """
20 {n} {size} {color} {noun}
2 {n} {size}, {color} {noun}
{n} {size} {noun} in {color}
{n} {color} {noun} that [is|are] {size}
{n} {size} {noun} that [is|are] {color}
{n} {size} {noun} colored {color}
{n} {size} {color}-colored {noun}
{n} {noun} that [is|are] {size} and {color}
""",
    "noun color": """
20 {n} {color} {noun}
{n} {noun} in {color}
{n} {noun} colored {color}
{n} {noun} that [is|are] {color}
{n} {color}-colored {noun}
{n} {noun} with a {color} color
""",
    "noun size": """
14 {n} {size} {noun}
{n} {noun} that [is|are] {size}
""",
    "noun color size bare": """
6 {n} {size} {color} {noun}
2 {n} {color} {noun}, {size}
{n} {noun}, {color}, {size}
{n} {noun} ({size}, {color})
{n} {noun}, {size}, {color}
""",
    "noun color bare": """
6 {n} {color} {noun}
{n} {noun}, {color}
{n} {noun} ({color})
{n} {noun} in {color}
""",
    "noun size bare": """
6 {n} {size} {noun}
2 {n} {noun}, {size}
{n} {noun} ({size})
""",
    "noun color size tight": """
20 {n} {size} {color} {noun}
3 {n} {size}, {color} {noun}
{n} {size} {color}-colored {noun}
{n} {color}, {size} {noun}
""",
    "noun color tight": """
20 {n} {color} {noun}
{n} {color}-colored {noun}
""",
    "noun size tight": """
14 {n} {size} {noun}
""",
    "colors": """
3 {split}
2 {all}, {parts}
2 {all}: {parts}
2 {all} ({parts})
{all}, {parts} in color
{all}, namely {parts}
{all} in {colors}
{all} in two colors, {parts}
""",
    "colors among": """
3 {split}
{all} ({parts})
{all} in {colors}
{parts} {noun}
""",
    "join": """
6 {first} and {last}
2 {first} as well as {last}
{first} together with {last}
{first} plus {last}
{first} along with {last}
{first}, and also {last}
{first} and, with it, {last}
{first} and, besides, {last}
""",
    "placed": """
6 {thing} {place}
{thing} ({place})
{thing} placed {place}
{thing} located {place}
""",
    "color": """
4 {S} [is|are] {color}
2 {S} [is|are] {color} in color
{S} [has|have] a {color} color
{S} [is|are] colored {color}
{S} [is|are] painted {color}
{S} [is|are] done in {color}
{S} [comes|come] in {color}
{S} [shows|show] a {color} tone
the color of {s} is {color}
the color used for {s} is {color}
{color} is the color of {s}
a {color} tone covers {s}
for {s} the artist has chosen {color}
as for color, {s} [is|are] {color}
{S} [has|have] been given a {color} color
{S} [appears|appear] in {color}
{S} [is|are] all {color}
{S} [is|are] {color} all over
{S} [wears|wear] the color {color}
""",
    "size": """
4 {S} [is|are] {size}
2 {S} [is|are] {size} in size
{S} [looks|look] {size}
{S} [appears|appear] {size} within the frame
in size {s} [is|are] {size}
as for size, {s} [is|are] {size}
compared with the frame, {s} [is|are] {size}
{S} [is|are] {size} when measured against the whole picture
in size {s} would count as {size}
the size of {s} is best described as {size}
""",
    "place": """
4 {S} [is|are] {place}
2 {S} [sits|sit] {place}
2 {place} [is|are] {s}
{place} you can see {s}
{place} we find {s}
{S} [is|are] placed {place}
{S} [is|are] located {place}
{S} [is|are] positioned {place}
{S} [can|can] be found {place}
{S} [has|have] been put {place}
{S} [appears|appear] {place}
{S} [is|are] to be seen {place}
{S} [has|have] a place {place}
{S} [stays|stay] {place}
{S} [has|have] been drawn {place}
you will find {s} {place}
look {place} to find {s}
look {place} and there [is|are] {s}
the spot for {s} is {place}
we find {s} {place}
one can spot {s} {place}
""",
    "color size": """
4 {S} [is|are] {size} and {color}
2 {S} [is|are] {color} and {size}
{S} [is|are] both {size} and {color}
{S} [is|are] {color} and rather {size}
{S} [is|are] {size} and colored {color}
{S} [is|are] {size} in size and {color} in color
{S} [is|are] {color} in color and {size} in size
{color} and {size}, {s} [stands|stand] out clearly
in size {s} [is|are] {size}, in color {color}
""",
    "color place": """
3 {S} [is|are] {color} and [sits|sit] {place}
{S}, which [is|are] {color}, [sits|sit] {place}
{S}, {color} in color, [is|are] {place}
{place} [is|are] {s}, colored {color}
{S}, shown {place}, [is|are] {color}
{S} {place} [is|are] {color}
{S} [is|are] {place} and [has|have] a {color} color
placed {place}, {s} [is|are] {color}
{color} in color, {s} [sits|sit] {place}
""",
    "place size": """
3 {S} [is|are] {size} and [sits|sit] {place}
{S}, which [is|are] {size}, [sits|sit] {place}
{S}, {size} in size, [is|are] {place}
{place} [is|are] {s}, {size} in size
{S}, shown {place}, [is|are] {size}
{S} {place} [is|are] {size}
{S} [is|are] {place} and [looks|look] {size}
placed {place}, {s} [is|are] {size}
{S} [is|are] {size} and can be found {place}
""",
    "color place size": """
2 {S} [is|are] {size} and {color} and [sits|sit] {place}
{S}, {size} and {color}, [is|are] {place}
{place} [is|are] {s}, {size} and {color}
{S} {place} [is|are] {size} and {color}
{S}, which [is|are] {color} and {size}, can be found {place}
{color} and {size}, {s} [sits|sit] {place}
{S} [is|are] {color}, {size} in size, and placed {place}
""",
    "all sizes": """
3 {all} of them are {size}
{all} of these are {size} in size
2 they are {all} {size}
each of them is {size}
in size they are {all} alike, namely {size}
{all} appear {size} within the frame
{all} of them look {size}
they are {all} rather {size}
""",
    "both": """
4 {one}, and {two}
2 {one}, while {two}
{one}; {two}
{one}, whereas {two}
{one}, and in addition {two}
""",
    "relation": """
5 {a} is {rel} {b}
2 {a} sits {rel} {b}
{rel} {b} is {a}
{rel} {b} we see {a}
{rel} {b} you can find {a}
we find {a} {rel} {b}
you can see {a} {rel} {b}
{a} is placed {rel} {b}
{a} is positioned {rel} {b}
{a} is located {rel} {b}
{a} appears {rel} {b}
{a} can be seen {rel} {b}
{a} is to be found {rel} {b}
{a} has its place {rel} {b}
note that {a} is {rel} {b}
seen from {b}, {a} is {rel} it
if you start from {b}, {a} is {rel} it
in this arrangement {a} is {rel} {b}
{a} lies {rel} {b}
""",
    "inside": """
4 {a} is {inside} {b}
2 {b} is {around} {a}
2 {b} surrounds {a}
{b} goes around {a}
{b} runs around {a}
{b} encircles {a}
{b} frames {a}
{b} encloses {a}
{a} can be seen {inside} {b}
{a} sits {inside} {b}
{a} has been put {inside} {b}
{inside} {b} is {a}
we find {a} {inside} {b}
{a} looks out from inside {b}
the two share one center, with {b} {around} {a}
""",
    "overlapping": """
3 {b} is {overlapping} {a}
2 {a} is {overlapped} {b}
2 {b} overlaps {a}
2 {b} covers a part of {a}
{b} hides a part of {a}
a part of {a} is hidden by {b}
{a} and {b} overlap, with {b} in front
the two overlap, and {b} is the one in front
{b} stands in front of {a}
{a} is further back, and {b} covers some of it
{a} peeks out from behind {b}
{b} is nearer to the viewer than {a} and covers some of it
we see {b} {overlapping} {a}
because {b} is in front, {a} is not seen whole
""",
    "sign wcp": """
3 a {board} {at} reads {word} in {color} letters
2 the {board} {at} says {word} in {color} letters
2 {at} there is a {board} with the word {word} in {color} letters
{at}, a {board} carries the word {word} in {color} letters
{at} a framed {board} spells {word} in {color}
the word {word} is written in {color} letters on a {board} {at}
{word} is written in {color} on a {board} {at}
{word} stands in {color} letters on the {board} {at}
a dark {board} {at} bears the {color} word {word}
a framed {board} {at} shows the letters {word} in {color}
on the {board} {at} we read {word} in {color} letters
{color} capital letters on a {board} {at} spell {word}
{color} letters spell out {word} on the {board} {at}
in {color} capitals, the {board} {at} says {word}
you can read {word} in {color} on a {board} {at}
{at} runs a {board} with {color} letters that read {word}
the writing on the {board} {at} is {color} and says {word}
""",
    "sign wp": """
3 a {board} {at} reads {word}
2 the {board} {at} says {word}
2 {at} there is a {board} with the word {word}
{at} a {board} carries the word {word}
the word {word} is written on a {board} {at}
{word} is written on a dark {board} {at}
on the {board} {at} we read {word}
you can read {word} on a {board} {at}
a framed {board} {at} spells {word}
the text on the {board} {at} is {word}
{at} hangs a {board} that says {word}
""",
    "sign wc": """
3 a {board} reads {word} in {color} letters
2 the word {word} is written on a {board} in {color}
{color} letters on a {board} spell {word}
there is a {board} with the {color} word {word}
there is also a {board} that says {word} in {color}
in {color} capitals a {board} says {word}
a dark {board} shows {word} in {color} letters
the {board} in the picture reads {word}, written in {color}
""",
    "sign w": """
3 a {board} reads {word}
2 there is a {board} that says {word}
the word {word} is written on a {board}
on a {board} we read {word}
a {board} carries the word {word}
there is also a {board} with the word {word} on it
a {board} spells {word} in capital letters
""",
    "sign c": """
3 the letters are {color}
its letters are {color}
the word is written in {color}
the letters are all {color}
the writing is {color}
{color} is the color of the letters
the lettering is done in {color}
""",
    "sign p": """
3 the {board} is {at}
the {board} hangs {at}
the {board} is placed {at}
the {board} has its place {at}
{at} is where the {board} is
the {board} stretches {at} of the picture
""",
    "sign thing": """
3 a {board} that says {word}
2 a {board} with the word {word}
2 a {board} saying {word}
a {board} reading {word}
a {board} that reads {word}
the word {word} on a {board}
the word {word} written on a {board}
a framed {board} with the word {word}
a {board} on which {word} is written
a {board} with {word} on it
""",
    "sign thing color": """
3 a {board} that says {word} in {color} letters
2 a {board} with the word {word} in {color}
2 a {board} with the {color} word {word}
a {board} reading {word} in {color}
a {board} saying {word} in {color} letters
the {color} word {word} on a {board}
the word {word} written in {color} on a {board}
{color} letters on a {board} that spell {word}
a framed {board} with {color} letters that read {word}
""",
    "sign alone": """
2 nothing but the sign stands out
there are no other objects besides the sign
the sign is the only object shown
apart from the sign no object is shown
the sign is all there is to look at
""",
}
