"""Which emoji are variants of one another, so that splits never part them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Emoji:
    """One emoji, whoever draws it.

    Args:
        code: its code points as in Unicode's tables, ``"263A-FE0F"``.
        name: its short name, unique.
        group: one of Unicode's eight large groups, ``"Food & Drink"``.
        subgroup: ``"food-fruit"``.
    """

    code: str
    name: str
    group: str
    subgroup: str

    @property
    def key(self) -> str:
        """The code without presentation selectors, lower case: ``"263a"``."""
        return "-".join(code_points(self.code)).lower()


_JOINER = "200D"
_GENDER_SIGNS = {"2640", "2642"}
_HAIR = {"1F9B0", "1F9B1", "1F9B2", "1F9B3"}
_COLOURS = {"2B1B", "1F7E9", "1F7EB"}  # a black cat, a lime (a green lemon), a brown mushroom
_FACING_RIGHT = "27A1"
#: Man, woman, person; blond; bearded; older.
_ADULTS = {"1F468", "1F469", "1F9D1", "1F471", "1F9D4", "1F474", "1F475", "1F9D3"}

#: Subgroups that are one family as a whole.
_SUBGROUP_FAMILIES = {"family": "couples and families", "keycap": "keycap"}

#: Families that the code points do not give away, by short name.
_NAMED_FAMILIES: Mapping[str, str] = {
    # People who differ in gender.
    "child": "child boy girl",
    "claus": "santa mrs_claus mx_claus",
    "royal": "person_with_crown prince princess",
    "pregnant": "pregnant_woman pregnant_man pregnant_person",
    "feeding a baby": "breast-feeding woman_feeding_baby man_feeding_baby person_feeding_baby",
    "dancing": "dancer man_dancing",
    "couples and families": "family family_adult_adult_child family_adult_adult_child_child "
    "family_adult_child family_adult_child_child",
    "bust": "bust_in_silhouette busts_in_silhouette",
    "toilet sign": "mens womens",
    # The same in another direction.
    "pointing hand": "point_left point_right point_up_2 point_down point_up",
    "thumb": "+1 -1",
    "fist to the side": "left-facing_fist right-facing_fist",
    "hand to the side": "rightwards_hand leftwards_hand",
    "pushing hand": "leftwards_pushing_hand rightwards_pushing_hand",
    "palm": "palm_down_hand palm_up_hand",
    "head shaking": "head_shaking_horizontally head_shaking_vertically",
    "speech bubble": "speech_balloon left_speech_bubble",
    "magnifying glass": "mag mag_right",
    "arrow": "arrow_up arrow_upper_right arrow_right arrow_lower_right arrow_down arrow_lower_left "
    "arrow_left arrow_upper_left arrow_up_down left_right_arrow",
    "hooked arrow": "leftwards_arrow_with_hook arrow_right_hook",
    "bent arrow": "arrow_heading_up arrow_heading_down",
    "turning arrows": "arrows_clockwise arrows_counterclockwise",
    "repeat button": "repeat repeat_one",
    "arrow with a word": "back end on soon top",
    "triangle button": "arrow_forward arrow_backward arrow_up_small arrow_down_small",
    "two triangles button": "fast_forward rewind arrow_double_up arrow_double_down",
    "track button": "black_right_pointing_double_triangle_with_vertical_bar "
    "black_left_pointing_double_triangle_with_vertical_bar",
    "triangle": "small_red_triangle small_red_triangle_down",
    "tray": "outbox_tray inbox_tray",
    "trend": "chart_with_upwards_trend chart_with_downwards_trend",
    "airport": "airplane_departure airplane_arriving",
    "globe": "earth_africa earth_americas earth_asia",
    # The same in another colour or size.
    "heart": "heart pink_heart orange_heart yellow_heart green_heart blue_heart light_blue_heart "
    "purple_heart brown_heart black_heart grey_heart white_heart hearts heartpulse",
    # A full moon without its colour is a circle.
    "circle or moon": "red_circle large_orange_circle large_yellow_circle large_green_circle "
    "large_blue_circle large_purple_circle large_brown_circle black_circle white_circle "
    "new_moon waxing_crescent_moon first_quarter_moon moon full_moon waning_gibbous_moon "
    "last_quarter_moon waning_crescent_moon crescent_moon new_moon_with_face "
    "first_quarter_moon_with_face last_quarter_moon_with_face full_moon_with_face",
    "square": "large_red_square large_orange_square large_yellow_square large_green_square "
    "large_blue_square large_purple_square large_brown_square black_large_square "
    "white_large_square black_medium_square white_medium_square black_medium_small_square "
    "white_medium_small_square black_small_square white_small_square white_square_button "
    "black_square_button",
    "diamond": "large_orange_diamond large_blue_diamond small_orange_diamond small_blue_diamond "
    "diamonds",
    "book": "closed_book green_book blue_book orange_book",
    "apple": "apple green_apple",
    "bear": "bear polar_bear",
    "car": "car blue_car taxi police_car",
    "oncoming car": "oncoming_automobile oncoming_taxi oncoming_police_car",
    "disc": "cd dvd",
    "drop": "droplet drop_of_blood",
    "angry face": "angry rage",
    "imp": "imp smiling_imp",
    "question mark": "question grey_question",
    "exclamation mark": "exclamation grey_exclamation",
    "banknote": "yen dollar euro pound",
    "place medal": "first_place_medal second_place_medal third_place_medal",
    # The same in another state.
    "sun behind a cloud": "partly_sunny mostly_sunny barely_sunny partly_sunny_rain",
    "umbrella": "umbrella umbrella_with_rain_drops",
    "snowman": "snowman snowman_without_snow",
    "hourglass": "hourglass hourglass_flowing_sand",
    "mailbox": "mailbox mailbox_closed mailbox_with_mail mailbox_with_no_mail",
    "loudspeaker": "mute speaker sound loud_sound",
    "bell": "bell no_bell",
    "brightness": "low_brightness high_brightness",
    "lock": "lock unlock",
    "camera": "camera camera_with_flash",
    "dog": "dog2 guide_dog service_dog",
    "camel": "dromedary_camel camel",
    "ear": "ear ear_with_hearing_aid",
    # What some designer draws all but the same: at 32 pixels the mean difference is below 1.6 of
    # 255, in one of the domains at least.
    "smiling face": "smile grin",
    "blank face": "neutral_face no_mouth confused slightly_frowning_face white_frowning_face",
    "afraid face": "anguished fearful",
    "frowning person": "person_frowning man-frowning woman-frowning person_with_pouting_face "
    "man-pouting woman-pouting",
    "star with six points": "star_of_david six_pointed_star",
    "glasses": "eyeglasses dark_sunglasses",
    "bath": "bath bathtub",
    "envelope": "email e-mail",
    "two hearts": "two_hearts revolving_hearts",
    # Signs that differ in the character alone.
    "input": "capital_abcd abcd 1234 symbols abc",
    "Japanese sign": "koko sa u6708 u6709 u6307 ideograph_advantage u5272 u7121 u7981 accept u7533 "
    "u5408 u7a7a congratulations secret u55b6 u6e80",
}
_FAMILY_OF_NAME = {
    name: family for family, names in _NAMED_FAMILIES.items() for name in names.split()
}


def family(emoji: Emoji) -> str:
    """The name of the emoji's family: those that differ only in gender, hair, direction or colour.

    Named families come first; then gender signs, hair, directions and colours are struck from the
    code points, and man, woman and person become one. Zodiac signs, cat faces, playing cards and
    the like stay apart, for they show different things. The 1,628 emoji make 1,188 families.
    """
    if named := _FAMILY_OF_NAME.get(emoji.name) or _SUBGROUP_FAMILIES.get(emoji.subgroup):
        return named
    points = code_points(emoji.code)
    if "1F550" <= points[0] <= "1F567":
        return "clock face"
    variants = {_JOINER, _FACING_RIGHT, *_GENDER_SIGNS, *_HAIR, *_COLOURS}
    rest = [point for point in points[1:] if point not in variants]
    return "-".join(["1F9D1" if points[0] in _ADULTS else points[0], *rest]).lower()


def code_points(code: str) -> list[str]:
    """The code points of a code, without the selector that asks for colour."""
    return [point for point in code.split("-") if point != "FE0F"]
