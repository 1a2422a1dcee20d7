"""Captions of the toy world in Chinese: words with their counters, sentence frames, and the two
kinds of caption. All words and frames are our choice."""
from .telling import FLIPPED, Telling, brief_parts, dense_sentences
from .world import place_name

# ---- words, the commonest first
NOUNS = {  # kind: ((name, counters), ...)
    "astronaut": (("宇航员", "名位个"), ("航天员", "名位个"), ("太空人", "个名位")),
    "cat": (("猫", "只"), ("猫咪", "只"), ("猫儿", "只")),
    "dog": (("狗", "只条"), ("狗狗", "只"), ("犬", "只条")),
    "fish": (("鱼", "条"), ("鱼儿", "条"), ("游鱼", "条")),
    "butterfly": (("蝴蝶", "只"), ("蝶", "只"), ("蝶儿", "只")),
    "cactus": (("仙人掌", "棵株盆"),),
    "tulip": (("郁金香", "朵枝株"), ("郁金香花", "朵枝")),
    "mushroom": (("蘑菇", "个朵只"), ("菌菇", "个朵")),
    "tree": (("树", "棵株"), ("树木", "棵株")),
    "house": (("房子", "栋座间"), ("房屋", "栋座间"), ("屋子", "间栋"), ("住宅", "栋座")),
    "castle": (("城堡", "座"), ("古堡", "座"), ("堡垒", "座")),
    "apple": (("苹果", "个颗只"),),
    "carrot": (("胡萝卜", "根个"), ("萝卜", "根个")),
    "balloon": (("气球", "个只"),),
    "gift": (("礼物", "份个件"), ("礼盒", "个"), ("礼物盒", "个"), ("礼品", "份件")),
    "umbrella": (("雨伞", "把"), ("伞", "把"), ("阳伞", "把")),
    "teapot": (("茶壶", "把个"), ("壶", "把个")),
    "car": (("汽车", "辆部"), ("车", "辆"), ("轿车", "辆部"), ("车子", "辆部")),
    "ghost": (("幽灵", "个只"), ("鬼魂", "个"), ("鬼怪", "个"), ("幽魂", "个")),
    "robot": (("机器人", "个台"), ("机械人", "个台")),
    "bell": (("铃铛", "个只"), ("铃", "个")),
    "heart": (("爱心", "颗个"), ("心", "颗"), ("心形", "个"), ("桃心", "颗个")),
    "star": (("星星", "颗"), ("五角星", "颗个"), ("星形", "个"), ("星", "颗")),
    "ring": (("圆环", "个"), ("圆圈", "个"), ("环", "个"), ("圈", "个")),
}
BOARDS = ("牌子", "招牌", "告示牌", "标牌")  # each counted 块
COLORS = {
    "red": ("红色", "鲜红色", "大红色", "正红色"),
    "orange": ("橙色", "橘色", "橘黄色", "橙黄色"),
    "yellow": ("黄色", "金黄色", "明黄色", "亮黄色"),
    "green": ("绿色", "翠绿色", "草绿色", "碧绿色"),
    "cyan": ("青色", "青蓝色", "蓝绿色", "湖蓝色"),
    "blue": ("蓝色", "宝蓝色", "湛蓝色", "纯蓝色"),
    "purple": ("紫色", "紫罗兰色", "亮紫色"),
    "pink": ("粉色", "粉红色", "亮粉色"),
}
_SHORT = dict(zip(("red", "orange", "yellow", "green", "blue", "purple", "pink"), "红橙黄绿蓝紫粉"))
_OTHER_THINGS = ("黄鱼", "黄鱼儿", "红茶壶", "绿茶壶", "红萝卜", "红心")  # a fish, sorts of tea ...
SIZES = {  # before a noun: of one character, or ending in 的
    "small": ("小", "小小的", "很小的", "小号的"),
    "medium": ("中等大小的", "大小适中的", "不大不小的", "中号的"),
    "large": ("大", "很大的", "大大的", "大号的"),
}
_SIZED = {  # said of something
    "small": ("很小", "比较小", "个头小小的", "尺寸不大"),
    "medium": ("大小中等", "大小适中", "不大也不小"),
    "large": ("很大", "比较大", "个头很大", "尺寸很大"),
}
_NUMBERS = ("", *"一两三四五六七八九")
PLACES = {
    ("top", "left"): ("左上方", "左上角", "左上"),
    ("top", "center"): ("上方", "顶部", "上部", "上方中间"),
    ("top", "right"): ("右上方", "右上角", "右上"),
    ("middle", "left"): ("左边", "左侧", "左边中间", "左方"),
    ("middle", "center"): ("中间", "中央", "正中间", "中心"),
    ("middle", "right"): ("右边", "右侧", "右边中间", "右方"),
    ("bottom", "left"): ("左下方", "左下角", "左下"),
    ("bottom", "center"): ("下方", "底部", "下部", "下方中间"),
    ("bottom", "right"): ("右下方", "右下角", "右下"),
}
_BOARD_PLACES = {"top": ("上方", "顶部", "最上面", "上端"), "bottom": ("下方", "底部", "最下面", "下端")}
_SIDES = {
    "left of": ("左边", "左侧", "左方", "左面"),
    "right of": ("右边", "右侧", "右方", "右面"),
    "above": ("上方", "上面", "上边"),
    "below": ("下方", "下面", "下边"),
}
SETTINGS = {  # (what the backdrop is, where things are)
    "meadow": (("一片草地", "一片草原", "天空下的草地", "长满草的原野"), ("草地上", "草原上", "草坪上")),
    "beach": (("沙滩和大海", "海边的沙滩", "一片海滩", "海岸"), ("沙滩上", "海边", "海滩上")),
    "snow": (("一片雪地", "白雪覆盖的大地", "雪原", "雪景"), ("雪地里", "雪地上", "雪中", "雪原上")),
    "night": (("星空", "布满星星的夜空", "漆黑的夜空和星星", "夜晚的天空"), ("夜空下", "星空下", "夜里", "夜晚")),
    "sea": (("海底世界", "海水", "水下世界", "深蓝的海里"), ("海里", "水下", "海底", "海水中")),
    "room": (("一个房间", "室内空间", "屋里的墙和地板", "房间内部"), ("房间里", "室内", "屋子里", "屋里")),
    "city": (("城市", "一排高楼", "城市的楼房", "城市风光"), ("城市里", "高楼前", "城里", "楼房前")),
    "studio": (("摄影棚", "纯色的影棚", "简单的素色布景", "空空的摄影棚"), ("摄影棚里", "影棚里", "纯色背景前", "素色背景前")),
}
_QUOTES = ("“{}”", "“{}”", "「{}」", "\"{}\"", "‘{}’")

# ---- frames: x things with number, s setting, l where things are, p place, c colour, w word
_SHOW = {
    "zh show 1": "画面上有{x}",
    "zh show 2": "图中画着{x}",
    "zh show 3": "这是一幅画，上面有{x}",
    "zh show 4": "这张图片展示了{x}",
    "zh show 5": "可以看到{x}",
    "zh show 6": "{x}出现在画面中",
    "zh show 7": "画的主角是{x}",
    "zh show 8": "图片的内容是{x}",
    "zh show 9": "画家画了{x}",
    "zh show 10": "{x}构成了整个画面",
}
_FRESH = ("这张", "这是", "画家", "图中", "图片", "画的")  # begin a sentence after a full stop
_SHOW_IN = {
    "zh scene 1": "{l}有{x}",
    "zh scene 2": "画面上有{x}，背景是{s}",
    "zh scene 3": "在{l}，可以看到{x}",
    "zh scene 4": "画面以{s}为背景，画着{x}",
    "zh scene 5": "这张图画的是{l}的{x}",
    "zh scene 6": "背景是{s}，画面里有{x}",
    "zh scene 7": "{x}出现在{l}",
    "zh scene 8": "{x}的背后是{s}",
    "zh scene 9": "场景是{s}，主体是{x}",
}
_BACKDROP = {
    "zh setting 1": "背景是{s}",
    "zh setting 2": "整个场景是{s}",
    "zh setting 3": "画面以{s}为背景",
    "zh setting 4": "画的是{l}的情景",
}
_BACKDROP_AFTER = {
    "zh setting 5": "后面是{s}",
    "zh setting 6": "这一切都在{l}",
    "zh setting 7": "背景里能看到{s}",
}
_PLACED = {  # x: with number
    "zh placed 1": "画面{p}有{x}",
    "zh placed 2": "{p}是{x}",
    "zh placed 3": "{x}在画面{p}",
    "zh placed 4": "在{p}，有{x}",
    "zh placed 5": "{p}可以看到{x}",
    "zh placed 6": "{p}画着{x}",
}
_PLACED_MANY = {"zh placed 7": "{x}分别在画面的{p}"}
_PLACE = {  # x: a thing known already
    "zh placed 3": "{x}在画面{p}",
    "zh place 2": "{x}位于{p}",
    "zh place 3": "画面{p}是{x}",
    "zh place 4": "位于画面{p}的是{x}",
    "zh place 5": "{x}处在{p}的位置",
    "zh place 6": "{x}被画在了{p}",
}
_SPREAD = {
    "zh placed 7": "{x}分别在画面的{p}",
    "zh spread 2": "{x}分布在{p}",
    "zh spread 3": "画面的{p}各有{one}",
    "zh spread 4": "{x}的位置是{p}",
}
_COUNT = {
    "zh count 1": "一共有{n}{x}",
    "zh count 2": "{x}的数量是{n}",
    "zh count 3": "{x}总共{n}",
    "zh count 4": "数一数，{x}有{n}",
}
_SIDE = {
    "zh side 1": "{a}在{b}的{r}",
    "zh side 2": "{a}位于{b}{r}",
    "zh side 3": "{b}的{r}是{a}",
    "zh side 4": "{b}{r}有{a}",
    "zh side 5": "在{b}的{r}可以看到{a}",
    "zh side 6": "往{b}的{r}看，是{a}",
}
_INSIDE = {  # a lies in b
    "zh inside 1": "{a}在{b}里面",
    "zh inside 2": "{b}里面是{a}",
    "zh inside 3": "{a}被{b}围在中间",
    "zh inside 4": "{b}环绕着{a}",
    "zh inside 5": "{b}围住了{a}",
    "zh inside 6": "{a}处在{b}当中",
}
_OVERLAP = {  # b hides a part of a
    "zh overlap 1": "{a}和{b}重叠在一起",
    "zh overlap 2": "{b}遮住了{a}的一部分",
    "zh overlap 3": "{a}的一部分被{b}挡住了",
    "zh overlap 4": "{a}与{b}有部分重叠",
    "zh overlap 5": "{b}挡在{a}前面",
    "zh overlap 6": "{a}露出一部分，其余被{b}盖住",
}
_COLOR = {
    "zh color 1": "{x}{all}是{c}的",
    "zh color 2": "{x}的颜色{all}是{c}",
    "zh color 3": "{x}{all}呈{c}",
}
_COLOR_SIZE = {
    "zh look 1": "{x}{all}是{c}的，{z}",
    "zh look 2": "{x}{all}呈{c}，而且{z}",
    "zh look 3": "{x}{z}，颜色{all}是{c}",
}
_COLORS_OF = {
    "zh colors 1": "{x}不止一种颜色，{y}",
    "zh colors 2": "{x}的颜色不同，{y}",
    "zh colors 3": "{x}当中，{y}",
}
_BOARD = {  # by what is told: (place, colour)
    (True, True): {
        "zh board 1": "画面{p}的{b}上写着{c}的{w}",
        "zh board 2": "{p}有一块{b}，上面用{c}字母写着{w}",
        "zh board 3": "{p}的{b}上是{c}的文字{w}",
        "zh board 4": "一块写着{w}的{b}横在画面{p}，字是{c}的",
        "zh board 5": "{c}的{w}字样出现在{p}的{b}上",
        "zh board 6": "画面{p}写着{c}的单词{w}",
    },
    (True, False): {
        "zh board 7": "画面{p}的{b}上写着{w}",
        "zh board 8": "{p}有一块{b}，写的是{w}",
        "zh board 9": "写着{w}的{b}在画面{p}",
    },
    (False, True): {
        "zh board 10": "{b}上用{c}字母写着{w}",
        "zh board 11": "有一块{b}，上面是{c}的{w}",
    },
    (False, False): {
        "zh board 12": "{b}上写着{w}",
        "zh board 13": "画面里的{b}写的是{w}",
    },
}
_WISH = {
    "zh wish 1": "{x}",
    "zh wish 2": "画{x}",
    "zh wish 3": "请画{x}",
    "zh wish 4": "帮我画{x}",
    "zh wish 5": "我想要{x}",
    "zh wish 6": "我想看{x}",
    "zh wish 7": "生成{x}",
    "zh wish 8": "给我画{x}吧",
    "zh wish 9": "能画{x}吗",
    "zh wish 10": "画里有{x}",
}
_WISH_BARE = {  # x: not one of something
    "zh picture 1": "{x}的图片",
    "zh picture 2": "一张{x}的图",
    "zh picture 3": "画一张{x}的画",
    "zh picture 4": "来一张{x}的插画",
}
_WISH_IN = {
    "zh scene 1": "{l}有{x}",
    "zh wish in 2": "{x}在{l}",
    "zh wish in 3": "{x}，背景是{s}",
}
_WISH_OF = {
    **_WISH_IN,
    "zh wish in 4": "{l}的{x}",
    "zh wish in 5": "画{l}的{x}",
}
_WISH_AT = {
    "zh wish at 1": "{p}有{x}",
    "zh wish at 2": "{x}在{p}",
    "zh wish at 3": "在{p}画{x}",
}
_WISH_SIDE = {
    "zh side 1": "{a}在{b}的{r}",
    "zh wish side 2": "{b}{r}的{a}",
    "zh wish side 3": "{b}的{r}有{a}",
    "zh wish side 4": "画{a}在{b}{r}",
    "zh wish side 5": "想看{a}在{b}的{r}",
}
_WISH_INSIDE = {
    "zh wish inside 1": "{b}里的{a}",
    "zh inside 1": "{a}在{b}里面",
    "zh wish inside 3": "{b}围着{a}",
    "zh wish inside 4": "在{b}里画{a}",
}
_WISH_OVERLAP = {
    "zh wish overlap 1": "重叠的{a}和{b}",
    "zh wish overlap 2": "{b}遮住一部分{a}",
    "zh wish overlap 3": "{a}和{b}叠在一起",
    "zh wish overlap 4": "画{a}和{b}重叠",
}
_WISH_BOARD = {
    "zh wish board 1": "写着{w}的{b}",
    "zh wish board 2": "一块写着{w}的{b}",
    "zh wish board 3": "画一块写着{w}的{b}",
    "zh board 12": "{b}上写着{w}",
    "zh wish board 4": "{w}",
    "zh wish board 5": "请写上{w}",
    "zh wish board 6": "{w}字样",
    "zh wish board 7": "单词{w}",
    "zh wish board 8": "我要一块{w}的{b}",
}
_WISH_BOARD_COLOR = {
    "zh wish letters 1": "{c}的{w}",
    "zh wish letters 2": "用{c}字母写{w}",
    "zh wish letters 3": "写着{c}{w}的{b}",
    "zh wish letters 4": "{b}上有{c}的字{w}",
}


# ---- grammar
def _listed(items, rng, more=0):
    "甲、乙和丙. `more`: weight of 还有, which needs a long sentence."
    if len(items) == 1:
        return items[0]
    joint = rng.choices(("和", "以及", "与", "，还有"), (6, 1, len(items) == 2, more))[0]
    return "、".join(items[:-1]) + joint + items[-1]


class Chinese(Telling):
    "A Chinese caption in the making."

    def __init__(self, scene, rng):
        super().__init__(scene, rng)
        self.digits = rng.random() < 0.1

    def noun(self, kind):
        "The name of a kind, the same throughout a caption."
        return self.keep(kind, NOUNS[kind])[0]

    def counted(self, kind, n):
        "Number and counter: 两只."
        counter = self.keep((kind, "counter"), self.keep(kind, NOUNS[kind])[1])
        return (str(n) if self.digits and n > 1 else _NUMBERS[n]) + counter

    def color(self, color):
        "The name of a colour, the same throughout a caption."
        return self.keep(("color", color), COLORS[color])

    def _short(self, noun, color):
        "红猫; None where the colour's word is another, or the two together name another thing."
        if self.color(color) != COLORS[color][0] or color not in _SHORT or len(noun) > 3:
            return None
        word = _SHORT[color] + noun
        return None if word in _OTHER_THINGS else word

    def colored(self, noun, color, short=False):
        "红色的猫, 红猫 or 红色雨伞; `short`: mostly without 的."
        word = self._short(noun, color)
        if word and self.chance(0.6 if short else 0.25):
            return word
        if len(noun) > 1 and self.chance(0.7 if short else 0.2):
            return self.color(color) + noun
        return f"{self.color(color)}的{noun}"

    def _sized(self, noun, size, color):
        "红色的小猫, 小红猫 or 小小的红猫."
        form = self.pick(SIZES[size])
        if not color:
            return form + noun
        if len(form) > 1:
            return form + self.colored(noun, color, short=True)
        word = self._short(noun, color)
        if word and self.chance(0.3):
            return form + word
        full = "" if self.chance(0.25) else "的"
        return self.color(color) + full + form + noun

    def phrase(self, kind, color, size, n):
        "Things of one kind with what is to be told of them, each None to leave it out: 一只红色的小猫."
        noun = self.noun(kind)
        if size:
            noun = self._sized(noun, size, color)
        elif color:
            noun = self.colored(noun, color)
        return (self.counted(kind, n) if n else "") + noun

    def phrases(self, kind, number=True, color=True, size=True):
        "The phrases of all things of a kind, one a colour; states what they tell."
        group = self.groups[kind]
        z = group[0].size if size and kind != "ring" else None
        self.state_group(kind, number, color, z)
        if not color:
            return [self.phrase(kind, None, z, len(group) if number else None)]
        return [self.phrase(kind, c, z, n if number else None) for c, n in self.bunches(kind)]

    def list_of(self, kinds, number=True, color=True, size=True, more=0):
        "All things of some kinds in one list."
        sized = {k: size and self.chance(0.85) for k in kinds}
        items = [x for k in kinds for x in self.phrases(k, number, color, sized[k])]
        return _listed(items, self.rng, more)

    def known(self, kind):
        "A thing told already: 红猫, 猫 or 这只猫; of several, 这两只猫."
        group = self.groups[kind]
        if len(group) > 1:
            return self.pick(("这" + self.counted(kind, len(group)), "")) + self.noun(kind)
        how = self.rng.random()
        if how < 0.5:
            self.state_group(kind, color=True)
            return self.colored(self.noun(kind), group[0].color, True)
        self.state("object", kind)
        this = "" if how < 0.85 else "这" + self.counted(kind, 1)[1:]
        return this + self.noun(kind)

    def place(self, thing):
        "The name of a thing's place."
        return self.pick(PLACES[place_name(thing.x, thing.y)])

    def places(self, group):
        "The names of the places of several things."
        style = self.pick(range(3))
        return _listed([PLACES[place_name(t.x, t.y)][style] for t in group], self.rng)

    def setting(self):
        "Words for the setting, to fill a frame: {s} and {l}."
        self.state("setting", self.scene.setting)
        what, where = SETTINGS[self.scene.setting]
        return {"s": self.pick(what), "l": self.pick(where)}

    # ---- sentences of dense captions
    def show(self, kinds, with_setting, plain):
        "A sentence with all things; `plain`: numbers and kinds only."
        words = self.setting() if with_setting else {}
        frame = self.frame(_SHOW_IN if with_setting else _SHOW)
        return [frame.format(x=self.list_of(kinds, True, not plain, not plain, more=2), **words)]

    def show_at(self, kinds):
        "A sentence for each kind, with the place of a single thing."
        out = []
        for kind in kinds:
            group, x = self.groups[kind], self.list_of([kind])
            if len(group) == 1:
                self.state_place(group[0])
                out.append(self.frame(_PLACED).format(x=x, p=self.place(group[0])))
            elif self.chance(0.6) and len(self.bunches(kind)) == 1:
                out.append(self.frame(_PLACED_MANY).format(x=x, p=self.places(group)))
            else:
                out.append(self.frame(_SHOW).format(x=x))
        return out

    def describe(self, kind):
        "Colour and mostly size of things told already."
        group, bunches = self.groups[kind], self.bunches(kind)
        if len(bunches) > 1:
            self.state_group(kind, True, True)
            parts = [f"{self.counted(kind, n)}是{self.color(c)}的" for c, n in bunches]
            return [self.frame(_COLORS_OF).format(x=self.noun(kind), y="，".join(parts))]
        sized = kind != "ring" and self.chance(0.85)
        self.state_group(kind, color=True, size=sized)
        frame = self.frame(_COLOR_SIZE if sized else _COLOR)
        both = "都" if len(group) > 1 else ""
        z = self.pick(_SIZED[group[0].size])
        return [frame.format(x=self.noun(kind), c=self.color(group[0].color), z=z, all=both)]

    def locate(self, thing):
        "Where a single thing is."
        self.state_place(thing)
        return [self.frame(_PLACE).format(x=self.known(thing.kind), p=self.place(thing))]

    def spread(self, group):
        "Where the things of a kind are."
        kind = group[0].kind
        one = self.counted(kind, 1) + self.noun(kind)
        return [self.frame(_SPREAD).format(x=self.known(kind), p=self.places(group), one=one)]

    def count(self, kind):
        "How many things of a kind there are."
        n = len(self.groups[kind])
        self.state_group(kind, number=True)
        return [self.frame(_COUNT).format(x=self.noun(kind), n=self.counted(kind, n))]

    def relate(self, a, r, b):
        "How one thing lies to another."
        self.state_relation(a, r, b)
        name_a, name_b = self.known(a.kind), self.known(b.kind)
        return [self._related((_SIDE, _INSIDE, _OVERLAP), name_a, r, name_b)]

    def _related(self, tables, a, r, b):
        side, inside, overlap = tables
        if r == "overlapping":
            return self.frame(overlap).format(a=a, b=b)
        if r == "around" or r != "inside" and self.chance(0.5):
            a, r, b = b, FLIPPED[r], a
        if r == "inside":
            return self.frame(inside).format(a=a, b=b)
        return self.frame(side).format(a=a, b=b, r=self.pick(_SIDES[r]))

    def _sign_words(self):
        sign = self.scene.sign
        self.state("word", sign.word)
        return dict(
            w=self.rng.choice(_QUOTES).format(sign.word),
            b=self.pick(BOARDS),
            c=self.color(sign.color),
            p=self.pick(_BOARD_PLACES[sign.place]),
        )

    def board(self):
        "The sign: its word, and mostly its colour and place."
        told = self.chance(0.88), self.chance(0.88)
        if told[0]:
            self.state("word place", self.scene.sign.place)
        if told[1]:
            self.state("word color", self.scene.sign.color)
        return [self.frame(_BOARD[told]).format(**self._sign_words())]

    def backdrop(self, first):
        "The setting in a sentence of its own; `first`: before any other."
        table = _BACKDROP if first else {**_BACKDROP, **_BACKDROP_AFTER}
        return [self.frame(table).format(**self.setting())]

    # ---- clauses of brief captions
    def wish(self, kinds, number, color, size):
        "Some kinds, as a phrase or a request."
        x = self.list_of(kinds, number, color, size)
        group, style = self.groups[kinds[0]], self.rng.random()
        if style < 0.2:
            table = _WISH_IN if "的" in x and not number else _WISH_OF
            return [self.frame(table).format(x=x, **self.setting())]
        if style < 0.35 and len(kinds) == len(group) == 1 and not self.close:
            self.state_place(group[0])
            return [self.frame(_WISH_AT).format(x=x, p=self.place(group[0]))]
        bare = x[0] not in "一1"
        return [self.frame({**_WISH, **_WISH_BARE} if bare else _WISH).format(x=x)]

    def wish_related(self, a, r, b, color):
        "Two things and how they lie."
        self.state_relation(a, r, b)
        number = self.chance(0.3)
        x, y = ("".join(self.phrases(t.kind, number, color, False)) for t in (a, b))
        return [self._related((_WISH_SIDE, _WISH_INSIDE, _WISH_OVERLAP), x, r, y)]

    def wish_board(self):
        "The sign's word, now and then with its colour, a thing or the setting."
        if self.chance(0.3):
            self.state("word color", self.scene.sign.color)
            out = self.frame(_WISH_BOARD_COLOR).format(**self._sign_words())
        else:
            out = self.frame(_WISH_BOARD).format(**self._sign_words())
        if self.groups and self.chance(0.25):
            kind = self.rng.choice(list(self.groups))
            return [out, "还有" + self.list_of([kind], True, self.chance(0.5), False)]
        return [out, f"背景是{self.setting()['s']}"] if self.chance(0.1) else [out]


def _joined(sentences, rng, end=0.8):
    "Sentences with their marks; some are joined by a comma."
    out = sentences[0]
    for s in sentences[1:]:
        loose = "，" not in out.rsplit("。")[-1] + s and s[:2] not in _FRESH
        out += rng.choices("，；。", (3 * loose, 1, 7))[0] + s
    return out + ("。" if rng.random() < end else "")


def dense(scene, rng) -> tuple[str, tuple, tuple]:
    """A dense caption in Chinese: (text, the `Fact`s it states, ids of its frames). `rng` is a
    `random.Random`."""
    t = Chinese(scene, rng)
    text = _joined(dense_sentences(t), rng, end=1)
    return text, tuple(t.facts), tuple(t.frames)


def brief(scene, rng, skill: str | None = None) -> tuple[str, tuple, tuple]:
    """A brief caption or request in Chinese: (text, facts, ids of frames). With `skill` it states
    every fact of `NEEDED` for that skill, else a random choice."""
    t = Chinese(scene, rng)
    parts = brief_parts(t, skill)
    text = "，".join(parts)
    if text.endswith("吗"):
        return text + "？", tuple(t.facts), tuple(t.frames)
    return text + ("。" if rng.random() < 0.2 else ""), tuple(t.facts), tuple(t.frames)
