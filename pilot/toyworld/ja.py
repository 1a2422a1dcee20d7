"""Captions of the toy world in Japanese: words with their counters, sentence frames, and the two
kinds of caption. All words and frames are our choice."""
from .telling import FLIPPED, Telling, brief_parts, dense_sentences
from .world import place_name

# ---- words, the commonest first
NOUNS = {  # kind: ((name, counters), ...)
    "astronaut": (("宇宙飛行士", "人"), ("宇宙飛行士さん", "人"), ("アストロノート", "人")),
    "cat": (("猫", "匹"), ("ネコ", "匹"), ("ねこ", "匹")),
    "dog": (("犬", "匹"), ("イヌ", "匹"), ("いぬ", "匹"), ("ワンちゃん", "匹")),
    "fish": (("魚", "匹"), ("お魚", "匹"), ("さかな", "匹")),
    "butterfly": (("蝶", "匹羽"), ("ちょうちょ", "匹"), ("チョウ", "匹羽"), ("蝶々", "匹")),
    "cactus": (("サボテン", "本つ"), ("さぼてん", "本")),
    "tulip": (("チューリップ", "本輪"), ("チューリップの花", "本輪")),
    "mushroom": (("キノコ", "本つ個"), ("きのこ", "本個"), ("マッシュルーム", "個つ")),
    "tree": (("木", "本"), ("樹木", "本"), ("樹", "本")),
    "house": (("家", "軒"), ("おうち", "軒つ"), ("住宅", "軒"), ("民家", "軒")),
    "castle": (("城", "つ"), ("お城", "つ"), ("古城", "つ"), ("城郭", "つ")),
    "apple": (("りんご", "個つ"), ("リンゴ", "個つ"), ("林檎", "個つ")),
    "carrot": (("にんじん", "本"), ("ニンジン", "本"), ("人参", "本")),
    "balloon": (("風船", "個つ"), ("バルーン", "個つ"), ("ふうせん", "個つ")),
    "gift": (("プレゼント", "個つ"), ("贈り物", "個つ"), ("ギフト", "個つ"), ("プレゼントの箱", "個つ")),
    "umbrella": (("傘", "本"), ("かさ", "本"), ("雨傘", "本")),
    "teapot": (("ティーポット", "個つ"), ("ポット", "個つ"), ("お茶のポット", "個つ")),
    "car": (("車", "台"), ("自動車", "台"), ("クルマ", "台"), ("乗用車", "台")),
    "ghost": (("おばけ", "匹体"), ("幽霊", "体人"), ("お化け", "匹体"), ("ゴースト", "体匹")),
    "robot": (("ロボット", "体台"), ("ロボ", "体台")),
    "bell": (("ベル", "個つ"), ("鐘", "つ個"), ("鈴", "個つ")),
    "heart": (("ハート", "個つ"), ("ハートマーク", "個つ")),
    "star": (("星", "個つ"), ("お星さま", "個つ"), ("星マーク", "個つ")),
    "ring": (("輪", "つ"), ("リング", "個つ"), ("輪っか", "個つ"), ("円環", "個つ")),
}
_LIVING = ("astronaut", "cat", "dog", "fish", "butterfly", "ghost", "robot")  # いる, not ある
BOARDS = ("看板", "ボード", "立て札", "案内板")
COLORS = {
    "red": ("赤い", "赤色の", "真っ赤な", "レッドの"),
    "orange": ("オレンジ色の", "オレンジの", "橙色の", "だいだい色の"),
    "yellow": ("黄色い", "黄色の", "イエローの", "真っ黄色の"),
    "green": ("緑の", "緑色の", "グリーンの", "みどり色の"),
    "cyan": ("水色の", "シアンの", "シアン色の", "ターコイズ色の"),
    "blue": ("青い", "青色の", "ブルーの", "真っ青な"),
    "purple": ("紫の", "紫色の", "パープルの", "むらさき色の"),
    "pink": ("ピンクの", "ピンク色の", "桃色の"),
}
_COLOR_NOUNS = {
    "red": ("赤", "赤色", "レッド"),
    "orange": ("オレンジ色", "オレンジ", "橙色"),
    "yellow": ("黄色", "イエロー"),
    "green": ("緑", "緑色", "グリーン"),
    "cyan": ("水色", "シアン"),
    "blue": ("青", "青色", "ブルー"),
    "purple": ("紫", "紫色", "パープル"),
    "pink": ("ピンク", "ピンク色", "桃色"),
}
SIZES = {
    "small": ("小さな", "小さい", "小ぶりな", "小さめの"),
    "medium": ("中くらいの", "中くらいの大きさの", "中サイズの", "ほどよい大きさの"),
    "large": ("大きな", "大きい", "とても大きな", "大きめの"),
}
_SIZE_NOUNS = {
    "small": ("小さめ", "小ぶり", "小さなサイズ"),
    "medium": ("中くらいの大きさ", "中サイズ", "ほどよい大きさ"),
    "large": ("大きめ", "大きなサイズ", "かなりの大きさ"),
}
_SIZE_LEVELS = {"small": "小さめ", "medium": "中くらい", "large": "大きめ"}
PLACES = {
    ("top", "left"): ("左上", "左上のほう", "左上のあたり"),
    ("top", "center"): ("上", "上部", "上のほう", "中央の上"),
    ("top", "right"): ("右上", "右上のほう", "右上のあたり"),
    ("middle", "left"): ("左", "左側", "左のほう", "左の真ん中"),
    ("middle", "center"): ("中央", "真ん中", "中心", "中ほど"),
    ("middle", "right"): ("右", "右側", "右のほう", "右の真ん中"),
    ("bottom", "left"): ("左下", "左下のほう", "左下のあたり"),
    ("bottom", "center"): ("下", "下部", "下のほう", "中央の下"),
    ("bottom", "right"): ("右下", "右下のほう", "右下のあたり"),
}
_BOARD_PLACES = {"top": ("上部", "上", "上のほう", "一番上"), "bottom": ("下部", "下", "下のほう", "一番下")}
_SIDES = {
    "left of": ("左", "左側", "左のほう"),
    "right of": ("右", "右側", "右のほう"),
    "above": ("上", "上のほう", "上側", "上方"),
    "below": ("下", "下のほう", "下側", "下方"),
}
# fmt: off
SETTINGS = {  # (what the backdrop is, where things are)
    "meadow": (("草原", "空と草原", "緑の草地", "野原"), ("草原", "野原", "草地", "草の上")),
    "beach": (("砂浜", "海辺の砂浜", "砂浜と海", "ビーチ"), ("砂浜", "ビーチ", "海辺", "海岸")),
    "snow": (("雪原", "雪景色", "雪の積もった野原", "一面の雪"), ("雪の中", "雪原", "雪の上", "雪野原")),
    "night": (("夜空", "星空", "星のまたたく夜空", "星の見える暗い空"), ("夜空の下", "夜", "星空の下", "夜の景色の中")),
    "sea": (("海の中", "海中", "水中の世界", "海の底"), ("海の中", "水中", "海中", "海の底")),
    "room": (("部屋", "室内", "部屋の中", "屋内"), ("部屋の中", "室内", "部屋", "屋内")),
    "city": (("街", "ビル街", "都会の街並み", "ビルの並ぶ街"), ("街の中", "街", "都会", "ビルの前")),
    "studio": (("スタジオ", "シンプルなスタジオ", "無地のスタジオ", "無地の撮影スタジオ"),
               ("スタジオ", "スタジオの中", "撮影スタジオ", "無地の背景の前")),
}
# fmt: on
_QUOTES = ("「{}」", "「{}」", "『{}』", "“{}”", '"{}"')
_NUMBERS = ("", *"一二三四五六七八九")
_ENDINGS = {  # of a polite and of a plain caption
    True: {"iru": "います", "desu": "です", "mieru": "見えます", "tearu": "あります"},
    False: {"iru": "いる", "desu": "だ", "mieru": "見える", "tearu": "ある"},
}

# ---- frames: x things, q things with が and number, s setting, l where things are, p place
_SHOW = {
    "ja show 1": "{x}が描かれて{iru}",
    "ja show 2": "この絵には{x}が描かれて{iru}",
    "ja show 3": "画面には{x}が{mieru}",
    "ja show 4": "これは{x}の絵{desu}",
    "ja show 5": "絵の主役は{x}{desu}",
    "ja show 6": "{x}を描いた一枚{desu}",
    "ja show 7": "画像に写っているのは{x}{desu}",
}
_SHOW_NUMBERED = {
    "ja show 8": "画面には{q}描かれて{iru}",
    "ja show 9": "絵の中に{q}{mieru}",
}
_SHOW_IN = {
    "ja scene 1": "{s}を背景に{x}が描かれて{iru}",
    "ja scene 2": "{l}に{x}が{mieru}",
    "ja scene 3": "背景は{s}で、{x}が描かれて{iru}",
    "ja scene 4": "これは{l}の絵で、{x}が描かれて{iru}",
    "ja scene 5": "{l}の{x}を描いた絵{desu}",
    "ja scene 6": "{s}の前に{x}が描かれて{iru}",
    "ja scene 7": "舞台は{s}で、主役は{x}{desu}",
}
_SHOW_IN_NUMBERED = {
    "ja scene 8": "{l}に{q}{mieru}",
    "ja scene 9": "背景は{s}で、{q}描かれて{iru}",
}
_EXISTS = {  # things that are all alive or all not
    "ja exists 1": "{x}が{aru}",
    "ja exists 2": "絵の中には{x}が{aru}",
}
_EXISTS_IN = {
    "ja exists in 1": "{l}に{x}が{aru}",
    "ja exists in 2": "背景は{s}で、{x}が{aru}",
}
_BACKDROP = {
    "ja setting 1": "背景は{s}{desu}",
    "ja setting 2": "場面は{s}{desu}",
    "ja setting 3": "{s}が背景になって{iru}",
    "ja setting 4": "背景には{s}が描かれて{iru}",
    "ja setting 5": "これは{l}の絵{desu}",
}
_BACKDROP_AFTER = {
    "ja setting 6": "後ろは{s}{desu}",
    "ja setting 7": "その背後には{s}が広がって{iru}",
}
_PLACED = {
    "ja placed 1": "画面の{p}に{x}が{aru}",
    "ja placed 2": "{p}には{x}が{aru}",
    "ja placed 3": "{x}が画面の{p}に{aru}",
    "ja placed 4": "{p}に見えるのは{x}{desu}",
    "ja placed 5": "{p}に{x}が描かれて{iru}",
    "ja placed 6": "{x}が{p}に配置されて{iru}",
}
_PLACED_MANY = {"ja placed 7": "{x}がそれぞれ{p}に{aru}"}
_PLACE = {
    "ja place 1": "{x}は画面の{p}に{aru}",
    "ja place 2": "{x}は{p}に{aru}",
    "ja placed 1": "画面の{p}に{x}が{aru}",
    "ja place 4": "{p}に{aru_plain}のは{x}{desu}",
    "ja place 5": "{x}の位置は{p}{desu}",
    "ja place 6": "{x}は{p}に描かれて{iru}",
}
_SPREAD = {
    "ja spread 1": "{x}はそれぞれ画面の{p}に{aru}",
    "ja spread 2": "{x}は{p}に一{one}ずつ{aru}",
    "ja spread 3": "{x}は{p}に分かれて{iru}",
    "ja place 5": "{x}の位置は{p}{desu}",
}
_COUNT = {
    "ja count 1": "{x}は全部で{n}{desu}",
    "ja count 2": "{x}の数は{n}{desu}",
    "ja count 3": "合わせて{n}の{x}が{aru}",
}
_SIDE = {
    "ja side 1": "{a}は{b}の{r}に{aru}",
    "ja side 2": "{b}の{r}に{a}が{aru}",
    "ja side 3": "{b}の{r}に見えるのは{a}{desu}",
    "ja side 4": "{a}の位置は{b}の{r}{desu}",
    "ja side 5": "{b}の{r}には{a}が描かれて{iru}",
    "ja side 6": "{b}より{r}に{a}が{mieru}",
}
_INSIDE = {  # a lies in b
    "ja inside 1": "{a}は{b}の中に{aru}",
    "ja inside 2": "{b}の中に{a}が{aru}",
    "ja inside 3": "{b}が{a}を囲んで{iru}",
    "ja inside 4": "{a}は{b}に囲まれて{iru}",
    "ja inside 5": "{a}は{b}の内側に{aru}",
    "ja inside 6": "{a}の周りを{b}が取り巻いて{iru}",
}
_OVERLAP = {  # b hides a part of a
    "ja overlap 1": "{a}と{b}が重なって{iru}",
    "ja overlap 2": "{b}が{a}の一部を隠して{iru}",
    "ja overlap 3": "{a}の一部は{b}に隠れて{iru}",
    "ja overlap 4": "{a}の手前に{b}が重なって{iru}",
    "ja overlap 5": "{b}は{a}と一部が重なって{iru}",
}
_COLOR = {
    "ja color 1": "{x}の色は{c}{desu}",
    "ja color 2": "{x}は{hue}をして{iru}",
    "ja color 3": "{x}は全体が{c}{desu}",
}
_COLOR_SIZE = {
    "ja look 1": "{x}は{z}で、色は{c}{desu}",
    "ja look 2": "{x}は{c}で、{z}{desu}",
    "ja look 3": "{x}の色は{c}、大きさは{how}{desu}",
    "ja look 4": "{x}は{hue}をしていて、{z}{desu}",
}
_COLORS_OF = {
    "ja colors 1": "{x}のうち、{y}{desu}",
    "ja colors 2": "{x}は色違いで、{y}{desu}",
    "ja colors 3": "{x}の色は{y}{desu}",
}
_BOARD = {  # by what is told: (place, colour)
    (True, True): {
        "ja board 1": "画面の{p}の{b}に{c}文字で{w}と書かれて{iru}",
        "ja board 2": "{p}に{b}があり、{c}文字で{w}と書いて{tearu}",
        "ja board 3": "{w}という{c}文字が{p}の{b}に入って{iru}",
        "ja board 4": "{p}の{b}の文字は{w}で、色は{cn}{desu}",
        "ja board 5": "画面の{p}に{c}文字で{w}と{tearu}",
        "ja board 6": "{p}の{b}には{c}{w}の文字が{mieru}",
    },
    (True, False): {
        "ja board 7": "{p}の{b}に{w}と書かれて{iru}",
        "ja board 8": "{w}と書かれた{b}が画面の{p}に{tearu}",
        "ja board 9": "{p}の{b}には{w}の文字が{mieru}",
    },
    (False, True): {
        "ja board 10": "{b}に{c}文字で{w}と書かれて{iru}",
        "ja board 11": "{c}文字で{w}と書かれた{b}が{tearu}",
    },
    (False, False): {
        "ja board 12": "{b}に{w}と書かれて{iru}",
        "ja board 13": "{w}の{b}が{mieru}",
    },
}
_WISH = {
    "ja wish 1": "{x}",
    "ja wish 2": "{x}を描いて",
    "ja wish 3": "{x}を描いてください",
    "ja wish 4": "{x}の絵",
    "ja wish 5": "{x}の絵を描いて",
    "ja wish 6": "{x}が見たい",
    "ja wish 7": "{x}をお願いします",
    "ja wish 8": "{x}の画像",
    "ja wish 9": "{x}の画像を作って",
    "ja wish 10": "{x}のイラスト",
}
_WISH_NUMBERED = {
    "ja wish 11": "{q}",
    "ja wish 12": "{q}{aru_plain}絵",
    "ja wish 13": "{q}ほしい",
}
_WISH_IN = {
    "ja wish in 1": "{l}の{x}",
    "ja wish in 2": "{l}に{x}",
    "ja wish in 3": "{l}に{x}を描いて",
    "ja wish in 4": "{s}を背景にした{x}",
    "ja wish in 5": "{x}、背景は{s}",
}
_WISH_AT = {
    "ja wish at 1": "{p}に{x}",
    "ja wish at 2": "{p}に{x}を描いて",
    "ja wish at 3": "{p}に{x}が{aru_plain}絵",
}
_WISH_SIDE = {
    "ja wish side 1": "{b}の{r}に{a}",
    "ja wish side 2": "{b}の{r}の{a}",
    "ja wish side 3": "{a}が{b}の{r}に{aru_plain}絵",
    "ja wish side 4": "{b}の{r}に{a}を描いて",
    "ja wish side 5": "{a}は{b}の{r}",
}
_WISH_INSIDE = {
    "ja wish inside 1": "{b}の中の{a}",
    "ja wish inside 2": "{b}の中に{a}",
    "ja wish inside 3": "{b}に囲まれた{a}",
    "ja wish inside 4": "{b}の中に{a}を描いて",
}
_WISH_OVERLAP = {
    "ja wish overlap 1": "{a}と重なった{b}",
    "ja wish overlap 2": "重なり合う{a}と{b}",
    "ja wish overlap 3": "{a}に{b}を重ねて描いて",
    "ja wish overlap 4": "{a}と{b}が重なった絵",
}
_WISH_BOARD = {
    "ja wish board 1": "{w}と書かれた{b}",
    "ja wish board 2": "{w}の{b}",
    "ja wish board 3": "{w}と書かれた{b}を描いて",
    "ja wish board 4": "{b}に{w}と書いて",
    "ja wish board 5": "{w}の文字",
    "ja wish board 6": "{w}という{b}をください",
    "ja wish board 8": "{w}",
    "ja wish board 7": "{w}と書いてください",
}
_WISH_BOARD_COLOR = {
    "ja wish letters 1": "{c}文字の{w}",
    "ja wish letters 2": "{c}文字で{w}と書いて",
    "ja wish letters 3": "{c}文字で{w}と書かれた{b}",
}


# ---- grammar
def _listed(items, rng):
    "AとBとC."
    if len(items) < 3:
        return "と".join(items)
    how = rng.random()
    if how < 0.4:
        return "と".join(items)
    joint = "、そして" if how < 0.6 else "、それに" if how < 0.7 else "と"
    return "、".join(items[:-1]) + joint + items[-1]


class Japanese(Telling):
    "A Japanese caption in the making."

    def __init__(self, scene, rng):
        super().__init__(scene, rng)
        self.endings = _ENDINGS[rng.random() < 0.55]
        self.digits = rng.random() < 0.3

    def say(self, table, kind=None, **words):
        "A frame of a table with its slots filled; `kind`: what is there, for いる or ある."
        living = kind in _LIVING
        aru = self.endings["iru" if living else "tearu"]
        plain = "いる" if living else "ある"
        return self.frame(table).format(aru=aru, aru_plain=plain, **words, **self.endings)

    def noun(self, kind):
        "The name of a kind, the same throughout a caption."
        return self.keep(kind, NOUNS[kind])[0]

    def counter(self, kind):
        "The counter of a kind."
        return self.keep((kind, "counter"), self.keep(kind, NOUNS[kind])[1])

    def counted(self, kind, n):
        "Number and counter: 二匹."
        return (str(n) if self.digits else _NUMBERS[n]) + self.counter(kind)

    def color(self, color):
        "The adjective of a colour, the same throughout a caption."
        return self.keep(("color", color), COLORS[color])

    def phrase(self, kind, color, size):
        "A noun with what is to be told of it, each None to leave it out: 小さな赤い猫."
        words = [self.pick(SIZES[size])] if size else []
        words += [self.color(color)] if color else []
        if self.chance(0.3):
            words.reverse()
        return "".join(words) + self.noun(kind)

    def phrases(self, kind, number=True, color=True, size=True):
        "(phrase, number or None) of all things of a kind, one a colour; states what they tell."
        group = self.groups[kind]
        z = group[0].size if size and kind != "ring" else None
        self.state_group(kind, number, color, z)
        parts = self.bunches(kind) if color else [(None, len(group))]
        return [(kind, self.phrase(kind, c, z), n if number else None) for c, n in parts]

    def nominal(self, kind, phrase, n, style):
        "一匹の赤い猫 or 赤い猫一匹; without number 赤い猫."
        if n is None:
            return phrase
        number = self.counted(kind, n)
        return f"{number}の{phrase}" if style else phrase + number

    def list_of(self, kinds, number=True, color=True, size=True):
        """All things of some kinds in one list: {x} with a noun at each item's end, {q} with が and
        numbers, None where a number is left out."""
        parts = []
        for k in kinds:
            told = number and (number != "mostly" or len(self.groups[k]) > 1 or self.chance(0.9))
            parts += self.phrases(k, told, color, size and self.chance(0.85))
        style = self.chance(0.6)
        x = _listed([self.nominal(*p, style) for p in parts], self.rng)
        if any(n is None for *_, n in parts):
            return x, None
        return x, "、".join(f"{phrase}が{self.counted(k, n)}" for k, phrase, n in parts)

    def known(self, kind):
        "A thing told already: 赤い猫, 猫 or その猫; of several, 二匹の猫."
        group = self.groups[kind]
        if len(group) > 1:
            return self.pick((self.counted(kind, len(group)) + "の", "")) + self.noun(kind)
        how = self.rng.random()
        if how < 0.55:
            self.state_group(kind, color=True)
            return self.color(group[0].color) + self.noun(kind)
        self.state("object", kind)
        return ("" if how < 0.85 else "その") + self.noun(kind)

    def place(self, thing):
        "The name of a thing's place."
        return self.pick(PLACES[place_name(thing.x, thing.y)])

    def places(self, group):
        "The names of the places of several things."
        style = self.pick(range(3))
        names = [PLACES[place_name(t.x, t.y)][style] for t in group]
        return "、".join(names[:-1]) + "と" + names[-1]

    def setting(self):
        "Words for the setting, to fill a frame: {s} and {l}."
        self.state("setting", self.scene.setting)
        what, where = SETTINGS[self.scene.setting]
        return {"s": self.pick(what), "l": self.pick(where)}

    # ---- sentences of dense captions
    def show(self, kinds, with_setting, plain):
        "A sentence with all things; `plain`: numbers and kinds only."
        words = self.setting() if with_setting else {}
        x, q = self.list_of(kinds, "mostly", not plain, not plain)
        table = dict(_SHOW_IN if with_setting else _SHOW)
        if q:
            table.update(_SHOW_IN_NUMBERED if with_setting else _SHOW_NUMBERED)
        if len({k in _LIVING for k in kinds}) == 1:
            table.update(_EXISTS_IN if with_setting else _EXISTS)
        return [self.say(table, kinds[0], x=x, q=q, **words)]

    def show_at(self, kinds):
        "A sentence for each kind, with the place of a single thing."
        out = []
        for kind in kinds:
            group, (x, _) = self.groups[kind], self.list_of([kind], "mostly")
            if len(group) == 1:
                self.state_place(group[0])
                out.append(self.say(_PLACED, kind, x=x, p=self.place(group[0])))
            elif self.chance(0.6) and len(self.bunches(kind)) == 1:
                out.append(self.say(_PLACED_MANY, kind, x=x, p=self.places(group)))
            else:
                out.append(self.say({**_SHOW, **_EXISTS}, kind, x=x))
        return out

    def describe(self, kind):
        "Colour and mostly size of things told already."
        group, bunches = self.groups[kind], self.bunches(kind)
        if len(bunches) > 1:
            self.state_group(kind, True, True)
            parts = [f"{self.counted(kind, n)}は{_COLOR_NOUNS[c][0]}" for c, n in bunches]
            return [self.say(_COLORS_OF, x=self.noun(kind), y="、".join(parts))]
        sized = kind != "ring" and self.chance(0.85)
        self.state_group(kind, color=True, size=sized)
        names = _COLOR_NOUNS[group[0].color]
        hue = next(c for c in names if c.endswith("色"))
        words = dict(x=self.noun(kind), c=self.pick(names), hue=hue)
        if not sized:
            return [self.say(_COLOR, **words)]
        size = group[0].size
        z = self.pick(_SIZE_NOUNS[size])
        return [self.say(_COLOR_SIZE, z=z, how=_SIZE_LEVELS[size], **words)]

    def locate(self, thing):
        "Where a single thing is."
        self.state_place(thing)
        return [self.say(_PLACE, thing.kind, x=self.known(thing.kind), p=self.place(thing))]

    def spread(self, group):
        "Where the things of a kind are."
        kind = group[0].kind
        words = dict(x=self.known(kind), p=self.places(group), one=self.counter(kind))
        return [self.say(_SPREAD, kind, **words)]

    def count(self, kind):
        "How many things of a kind there are."
        n = len(self.groups[kind])
        self.state_group(kind, number=True)
        return [self.say(_COUNT, kind, x=self.noun(kind), n=self.counted(kind, n))]

    def relate(self, a, r, b):
        "How one thing lies to another."
        self.state_relation(a, r, b)
        first, second = ((t.kind, self.known(t.kind)) for t in (a, b))
        return [self._related((_SIDE, _INSIDE, _OVERLAP), first, r, second)]

    def _related(self, tables, a, r, b):
        side, inside, overlap = tables
        if r == "overlapping":
            return self.say(overlap, a=a[1], b=b[1])
        if r == "around" or r != "inside" and self.chance(0.5):
            a, r, b = b, FLIPPED[r], a
        words = dict(kind=a[0], a=a[1], b=b[1])
        if r == "inside":
            return self.say(inside, **words)
        return self.say(side, r=self.pick(_SIDES[r]), **words)

    def _sign_words(self):
        sign = self.scene.sign
        self.state("word", sign.word)
        return dict(
            w=self.rng.choice(_QUOTES).format(sign.word),
            b=self.pick(BOARDS),
            c=self.color(sign.color),
            cn=self.pick(_COLOR_NOUNS[sign.color]),
            p=self.pick(_BOARD_PLACES[sign.place]),
        )

    def board(self):
        "The sign: its word, and mostly its colour and place."
        told = self.chance(0.88), self.chance(0.88)
        if told[0]:
            self.state("word place", self.scene.sign.place)
        if told[1]:
            self.state("word color", self.scene.sign.color)
        return [self.say(_BOARD[told], **self._sign_words())]

    def backdrop(self, first):
        "The setting in a sentence of its own; `first`: before any other."
        table = _BACKDROP if first else {**_BACKDROP, **_BACKDROP_AFTER}
        return [self.say(table, **self.setting())]

    # ---- clauses of brief captions
    def wish(self, kinds, number, color, size):
        "Some kinds, as a phrase or a request."
        x, q = self.list_of(kinds, number, color, size)
        group, style = self.groups[kinds[0]], self.rng.random()
        if style < 0.2:
            return [self.say(_WISH_IN, x=x, **self.setting())]
        if style < 0.35 and len(kinds) == len(group) == 1 and not self.close:
            self.state_place(group[0])
            return [self.say(_WISH_AT, kinds[0], x=x, p=self.place(group[0]))]
        return [self.say({**_WISH, **_WISH_NUMBERED} if q else _WISH, kinds[-1], x=x, q=q)]

    def wish_related(self, a, r, b, color):
        "Two things and how they lie."
        self.state_relation(a, r, b)
        number = self.chance(0.2)
        pair = [(t.kind, self.list_of([t.kind], number, color, False)[0]) for t in (a, b)]
        return [self._related((_WISH_SIDE, _WISH_INSIDE, _WISH_OVERLAP), pair[0], r, pair[1])]

    def wish_board(self):
        "The sign's word, now and then with its colour, a thing or the setting."
        if self.chance(0.3):
            self.state("word color", self.scene.sign.color)
            out = self.say(_WISH_BOARD_COLOR, **self._sign_words())
        else:
            out = self.say(_WISH_BOARD, **self._sign_words())
        if self.groups and self.chance(0.25):
            kind = self.rng.choice(list(self.groups))
            return [self.list_of([kind], self.chance(0.5), self.chance(0.5), False)[0], out]
        return [out, f"背景は{self.setting()['s']}"] if self.chance(0.1) else [out]


def dense(scene, rng) -> tuple[str, tuple, tuple]:
    """A dense caption in Japanese: (text, the `Fact`s it states, ids of its frames). `rng` is a
    `random.Random`."""
    t = Japanese(scene, rng)
    text = "。".join(dense_sentences(t)) + "。"
    return text, tuple(t.facts), tuple(t.frames)


def brief(scene, rng, skill: str | None = None) -> tuple[str, tuple, tuple]:
    """A brief caption or request in Japanese: (text, facts, ids of frames). With `skill` it states
    every fact of `NEEDED` for that skill, else a random choice."""
    t = Japanese(scene, rng)
    text = "、".join(brief_parts(t, skill))
    return text + ("。" if rng.random() < 0.2 else ""), tuple(t.facts), tuple(t.frames)
